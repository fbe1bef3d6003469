"""What the machine must have for containers as `machine` makes them."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

TOOLS = ("unshare", "nsenter", "setpriv", "mount")


@cache
def missing() -> str:
    """What is missing here, in one line; empty: nothing."""
    absent = [*filter(None, (_user(), _tools(), _fuse()))] or [*filter(None, (_namespaces(),))]
    return f"tests like Vertex AI need {' and '.join(absent)}: see docs/vertex.md" if absent else ""


def _user() -> str:
    return "" if os.geteuid() == 0 else "root"


def _tools() -> str:
    return ", ".join(f"the program {tool}" for tool in TOOLS if shutil.which(tool) is None)


def _fuse() -> str:
    wanted = []
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        wanted.append("/dev/fuse")
    if not any(map(ctypes.util.find_library, ("fuse", "fuse3"))):
        wanted.append("libfuse (Debian's package libfuse2 or fuse3)")
    return " and ".join(wanted)


def _namespaces() -> str:
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
    mounts = ["mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if (
        not Path("/mnt").is_dir()
        or subprocess.run([*probe, *mounts], capture_output=True, check=False).returncode
    ):
        return "leave to make mount, network and PID namespaces"
    return ""
