"""Pages: a masthead and sections in, one self-contained HTML file out.

A section's body is a partial: a template, named `package:file`, of the package that knows the content.

    body = partial("gauntlet.components.validate_data:checks.html.jinja", checks=results)
    html = render(Masthead("emotion", "data validation", "Passed"), [Section("checks", "Checks", body)])

All values that a template gets are escaped, and the same content gives the same bytes.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from gauntlet.pages import formatting

NOTHING = Markup()
CODE = re.compile(r"`([^`]+)`")
VERDICT_TONES = {"pass": "good", "warn": "warn", "drop": "warn", "fail": "bad", "not applicable": "idle"}


@dataclass(frozen=True)
class Tile:
    """A figure at the top of a page, with its name and a line of explanation."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class Cell:
    """A cell of the macro `matrix`; `shade` is from 0 to 1."""

    text: str
    tone: str
    shade: float
    title: str = ""


@dataclass(frozen=True)
class Masthead:
    """The top of a page about a system (`name`).

    Attributes:
        kind: What kind of page it is, such as `run report`.
        headline: In a few words; `lead` is a sentence below it, `reasons` a list below that.
        tone: `good`, `bad`, `warn` or `idle`: the colour of the outcome.
        message: Of a failure, as it was written; `note` is a remark below it.
        facts: Short values by their names; a value may be markup.
    """

    name: str
    kind: str
    headline: str
    lead: str = ""
    tone: str = "idle"
    reasons: Sequence[str] = ()
    message: str = ""
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    tiles: Sequence[Tile] = ()


@dataclass(frozen=True)
class Section:
    """A section of a page. `id` is its anchor; `body` is a rendered partial, or empty.

    Attributes:
        caption: Next to the heading, such as the name of the step.
        state: A word and its tone, shown as a chip to the right of the heading.
        note: Why the section has less than it could.
    """

    id: str
    title: str
    body: Markup = NOTHING
    caption: str = ""
    state: tuple[str, str] | None = None
    note: Markup = NOTHING


def render(masthead: Masthead, sections: Sequence[Section], footer: str = "") -> str:
    """The page. `footer` follows the remark that the page is self-contained."""
    template = environment().get_template("gauntlet.pages:page.html.jinja")
    page = template.render(masthead=masthead, sections=sections, footer=footer)
    # JSON may hold half a surrogate pair, which UTF-8 cannot encode: write it as \udXXX instead of failing
    return page.encode("utf-8", errors="backslashreplace").decode("utf-8")


def partial(template: str, **content: object) -> Markup:
    """A template of any package, named `package:file`, or one of its blocks, `package:file#block`."""
    name, _, block = template.partition("#")
    found = environment().get_template(name)
    if not block:
        return Markup(found.render(**content))
    return Markup("".join(found.blocks[block](found.new_context(content))))


@functools.cache
def environment() -> Environment:
    """The templates of all packages, with the filters and the tones that they use."""
    templates = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {name: value for name, value in vars(formatting).items() if inspect.isfunction(value)}
    templates.filters |= filters | {"code_spans": code_spans}
    templates.globals |= {"verdict_tones": VERDICT_TONES}
    return templates


def code_spans(text: str) -> Markup:
    """Escape one of Gauntlet's own texts, and show what is between backquotes as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def _source(name: str) -> str | None:
    package, _, file = name.partition(":")
    path = resources.files(package).joinpath("templates", file)
    return path.read_text(encoding="utf-8") if path.is_file() else None
