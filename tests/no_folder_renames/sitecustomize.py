"""Python runs this at its start: below one folder, no folder can be renamed and no file hard-linked.

That is what gcsfuse allows in a bucket of a flat namespace, behind `/gcs` on Vertex AI:
https://github.com/GoogleCloudPlatform/gcsfuse/blob/master/docs/semantics.md
tests/conftest.py puts this module on the path of every process that a test starts, and loads it itself.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

VARIABLE = "GAUNTLET_TEST_OUTPUTS"
"""The folder that stands for the mounted bucket."""
FAULTS = {"os.rename": errno.EMFILE, "os.link": errno.ENOTSUP}


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Raise what gcsfuse does. `os.replace` and `Path.rename` are the event `os.rename` too."""
    if event not in FAULTS:
        return
    source = Path(os.fsdecode(arguments[0])).absolute()  # type: ignore[arg-type]
    if not source.is_relative_to(os.environ.get(VARIABLE, os.devnull)):
        return
    if event == "os.link" or source.is_dir():
        raise OSError(FAULTS[event], os.strerror(FAULTS[event]), str(source))


sys.addaudithook(refuse)
