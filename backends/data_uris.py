"""Checks file names that come from data or events before the files are opened.

A manifest is trusted: its URIs are opened as they are. Data and events are not trusted: a list of files in
the data could name any file of this machine or any address of its network, so `data_uri` checks each name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from gauntlet.backends import storage
from gauntlet.manifests.errors import UsageError

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, lone surrogates


def data_uri(folder_uri: str, name: str, roots: Sequence[str] = ()) -> str:
    """The URI of a file that the data name: relative to the data's folder, or absolute under one of `roots`.

    Args:
        folder_uri: The folder of the data.
        name: The name in the data.
        roots: Other folders that the manifest allows: its `dataset.roots`.

    Raises:
        UsageError: The file is outside of these folders, by `..`, a link or its address.
    """
    uri = name if "://" in name or name.startswith("/") else storage.join(folder_uri, name)
    if not lies_in(uri, (folder_uri, *roots)):
        raise UsageError(
            f"{shown(name)}: leads out of {folder_uri}. Only files under that folder are opened. Move the "
            "file there, or add its folder to dataset.roots"
        )
    return uri


def lies_in(uri: str, roots: Sequence[str]) -> bool:
    """Whether a URI, with all links resolved, is one of `roots` or under one of them."""
    return not _FORBIDDEN.search(uri) and any(_lies_in(uri, root) for root in roots)


def shown(name: str, most: int = 200) -> str:
    """An untrusted name for messages: on one line, and cut if it is long."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name[:most])
    return printable + ("…" if len(name) > most else "")


def _lies_in(uri: str, root: str) -> bool:
    here, root_here = storage.local_path(uri), storage.local_path(root)
    if here is not None and root_here is not None:
        return Path(os.path.realpath(here)).is_relative_to(os.path.realpath(root_here))
    if here is not None or root_here is not None or "::" in uri or "\\" in uri:
        return False
    folder = root.rstrip("/") + "/"
    return uri == root or (uri.startswith(folder) and ".." not in unquote(uri.partition("://")[2]).split("/"))
