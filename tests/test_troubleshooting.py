"""docs/how-to/troubleshooting.md: every message that it quotes is one that the code can print."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs/how-to/troubleshooting.md"
ROOMS = ("manifests", "backends", "trainer", "tasks", "components", "serving", "pipelines")
FEWEST = 40
QUOTED = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
GAP = "…"


def messages() -> list[str]:
    """Every text in the code; what is filled in is a gap."""
    found = []
    for path in (path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_quoted_message_is_in_the_code() -> None:
    quoted = QUOTED.findall(PAGE.read_text(encoding="utf-8"))
    assert len(quoted) >= FEWEST
    texts = messages()
    absent = []
    for message in quoted:
        pieces = ".*".join(re.escape(piece.strip(" ")) for piece in message.split(GAP))
        if not any(re.search(pieces, text, re.DOTALL) for text in texts):
            absent.append(message)
    assert absent == []
