"""The manifest that a study ends with: the one it began with, with the best trial's values in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gauntlet.trainer.tuning.study import Trial


def write_tuned(content: Mapping[str, Any], best: Trial, comments: list[str], path: Path) -> None:
    """Write a manifest whole or not at all.

    Args:
        content: The manifest as its file and the overrides have it, paths resolved, since the new file may
            lie in another folder.
        best: The trial whose values are set.
        comments: Lines for the top of the file.
        path: Where to.
    """
    tuned = copy.deepcopy(dict(content))
    training = tuned["training"]
    del training["search"]
    training |= best.values
    text = "".join(f"# {line}\n" for line in comments)
    text += yaml.safe_dump(tuned, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
