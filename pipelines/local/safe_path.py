"""How Gauntlet starts Python: without the working folder on the path, and able to print any text.

`python -m` puts the working folder first. A `trainer.py` or `components/` there, the user's own or somebody
else's, would be imported instead of the installed package.
"""

from __future__ import annotations

import os


def safe_environment() -> dict[str, str]:
    """This process's environment, in which no Python that it starts imports from the working folder.

    Their output is UTF-8 in any locale; a character that cannot be encoded is shown as an escape.
    """
    return os.environ | {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
