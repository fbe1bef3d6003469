"""A hook of mkdocs: links from a page to files outside docs/, which the site does not have.

Each becomes the file's path in the repository. A link to a file that does not exist is a warning, at which
`make docs` fails.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>(?:\.\./)+[^)\s#]+)(?:#[^)\s]*)?\)")
REPOSITORY = Path(__file__).resolve().parents[1]
LOG = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text with the links out of docs/ as text."""
    folder = Path(page.file.abs_src_path).parent

    def as_text(link: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / link["path"]))
        if path.is_relative_to(REPOSITORY / "docs"):
            return link[0]
        if not path.exists():
            LOG.warning("%s links to %s, which does not exist", page.file.src_uri, link["path"])
        name = path.relative_to(REPOSITORY).as_posix()
        text = link["text"].strip("`")
        return f"`{name}`" if text.rstrip("/") in name else f"{link['text']} (`{name}`)"

    return LINK.sub(as_text, markdown)
