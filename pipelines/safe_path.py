"""How Gauntlet starts Python: without the working folder on the path, and able to print any text.

`python -m` puts the working folder first. A user's own `trainer.py` or `components/` there would be imported
in place of the installed package, and a stranger's would be run.
"""

from __future__ import annotations

import os


def safe_environment() -> dict[str, str]:
    """This process's environment, in which no Python that it starts imports from the working folder.

    What they print is UTF-8 in any locale, and a character that no encoding can hold is shown as an escape.
    """
    return os.environ | {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
