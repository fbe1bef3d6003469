"""A manifest that a task kind proposes for data it has looked at: `gauntlet new`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class Proposal:
    """What a task kind proposes for data that suit it.

    Attributes:
        fit: How well they suit the kind, over 0 and up to 1. The kind with the highest is taken.
        why: One sentence: what was seen in the data.
        sections: The manifest's sections, with the keys that the data decide and those that need a value.
        comments: By a key such as `gates.min_macro_f1`: what is written beside it.
    """

    fit: float
    why: str
    sections: Mapping[str, Mapping[str, Any]]
    comments: Mapping[str, str] = field(default_factory=dict)


def as_manifest(name: str, task: str, description: str, proposal: Proposal) -> str:
    """The proposal as a manifest in YAML, one key a line, with its comments."""
    head = {"name": name, "description": description, "task": task}
    lines = [f"{key}: {_flow(value)}" for key, value in head.items()]
    for section, content in proposal.sections.items():
        lines += ["", f"{section}:", *_lines(section, content, proposal.comments)]
    return "\n".join(lines) + "\n"


def _lines(section: str, content: Mapping[str, Any], comments: Mapping[str, str]) -> Iterator[str]:
    for key, value in content.items():
        comment = comments.get(f"{section}.{key}")
        yield f"  {key}: {_flow(value)}" + (f"   # {comment}" if comment else "")


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
