"""Receive events over HTTP: `python -m pipelines.trigger`, at the port that Cloud Run names in `PORT`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Become gunicorn with one worker, of one thread: a limit that two count against at once is none."""
    bind = f"0.0.0.0:{os.environ.get('PORT', '8080')}"
    options = ["--preload", "--workers", "1", "--timeout", "60", "--no-control-socket"]
    application = "pipelines.trigger.web:create()"
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *options, "--bind", bind, application])


if __name__ == "__main__":
    main()
