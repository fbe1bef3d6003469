"""What comes from a user, a file or the data is printed as it is."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table

from gauntlet.pipelines.cli import main
from gauntlet.pipelines.terminal import NAME_COLUMN, LiteralConsole, styled

ROOT = Path(__file__).parents[2]
SOURCES = [
    file
    for package in ("pipelines", "components", "trainer")
    for file in sorted((ROOT / package).rglob("*.py"))
]
PRINTING = {"print", "add_row", "add_column", "Table", "Column", "NAME_COLUMN"}
MARKUP = re.compile(r"\[/\]|\[(bold|dim|red|green|yellow|cyan|italic)( [a-z]+)*\]")
TEXTS = ("[red]bold[/]", "[/b]", "t[v2]/x", "[]", "a\\", "\\[x]", ":heart:", "{}", "😀")


def printed(*things: object) -> str:
    stream = io.StringIO()
    console = LiteralConsole(file=stream, width=200, force_terminal=False)
    for thing in things:
        console.print(thing, soft_wrap=True)
    return stream.getvalue()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_printed_as_it_is_in_lines_tables_and_beside_styled_words(text: str) -> None:
    table = Table(text, NAME_COLUMN(text), title=text)
    table.add_row(text, text)
    assert printed(text) == f"{text}\n"
    assert printed(table).count(text) == 5
    assert printed(styled("[bold]{}[/]: {}", text, text)) == f"{text}: {text}\n"


@pytest.mark.parametrize(
    ("text", "shown"), [("\x1b[31m", "\\x1b[31m"), ("\ud800", "\\ud800"), ("\0", "\\x00")]
)
def test_what_a_terminal_would_obey_or_cannot_show_is_an_escape(text: str, shown: str) -> None:
    assert printed(text, styled("[bold]{}[/]", text)) == f"{shown}\n{shown}\n"


def printed_constants(file: Path) -> Iterator[tuple[int, str]]:
    """Every string that is given to something that prints, but for those in `styled`."""

    def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "styled":
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        for child in ast.iter_child_nodes(node):
            yield from strings(child)

    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for argument in node.args if name in PRINTING else ():
                yield from strings(argument)


def test_markup_is_given_to_styled_alone() -> None:
    """Anywhere else it would be printed as it stands."""
    found = [
        f"{file.relative_to(ROOT)}:{line}: {text}"
        for file in SOURCES
        for line, text in printed_constants(file)
        if MARKUP.search(text)
    ]
    assert found == []


def test_commands_print_on_no_console_that_reads_markup() -> None:
    made = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "pipelines").rglob("*.py")
        if re.search(r"(?<!Literal)\bConsole\(|rich\.print|import print\b", file.read_text(encoding="utf-8"))
    ]
    assert made == []


@pytest.mark.parametrize("name", ["t[v2]", "[/b]", "[red]", "a:heart:b"])
def test_a_path_in_brackets_is_shown_whole(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", str(tmp_path / name / "m.yaml")])
    assert ended.value.code == 2
    assert f"{name}/m.yaml" in capsys.readouterr().err
