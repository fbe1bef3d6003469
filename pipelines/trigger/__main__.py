"""`python -m gauntlet.pipelines.trigger` receives events over HTTP at the port in `PORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gauntlet
from gauntlet.pipelines.local.processes import safe_environment


def main() -> None:
    """Become gunicorn with one worker and one thread: two requests at once could both stay below a limit."""
    bind = f"0.0.0.0:{os.environ.get('PORT', '8080')}"
    options = ["--preload", "--workers", "1", "--timeout", "60", "--no-control-socket"]
    application = "gauntlet.pipelines.trigger.receiver:create()"
    options += ["--chdir", str(Path(gauntlet.__path__[0]).parent)]  # gunicorn imports from its folder first
    command = [sys.executable, "-m", "gunicorn", *options, "--bind", bind, application]
    os.execve(sys.executable, command, safe_environment())


if __name__ == "__main__":
    main()
