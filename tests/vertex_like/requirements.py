"""What the machine must have for containers as `machine` makes them."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from functools import cache

TOOLS = ("unshare", "nsenter", "setpriv", "mount")


@cache
def missing() -> str:
    """What is missing here, in one line; empty: nothing."""
    absent = [*filter(None, (_user(), _tools(), _fuse()))] or [*filter(None, (_namespaces(),))]
    return f"tests like Vertex AI need {' and '.join(absent)}: see docs/reference/vertex.md" if absent else ""


def _user() -> str:
    return "" if os.geteuid() == 0 else "root"


def _tools() -> str:
    return ", ".join(f"the program {tool}" for tool in TOOLS if shutil.which(tool) is None)


def _fuse() -> str:
    wanted = []
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        wanted.append("/dev/fuse")
    if not any(map(ctypes.util.find_library, ("fuse", "fuse3"))):
        wanted.append("libfuse (Debian's package libfuse2 or fuse3)")
    return " and ".join(wanted)


def _namespaces() -> str:
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
    mounting = [*probe, "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    may = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    return "" if may else "leave to make mount, network and PID namespaces"
