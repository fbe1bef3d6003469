"""Trains in processes of their own and ends them at chosen points: `python -m tests.trainer.interrupted`.

Each line of standard input is an attempt, `{"arguments": […], "fault": …, "at": …}`, answered by a line with
`{"code", "errors"}`, the code negative for a signal, as `subprocess` has it. Every attempt is a fork of this
process, which has imported torch but not used it, so that it starts in an instant.

Faults: `kill` and `terminate` send SIGKILL and SIGTERM to itself right after the optimizer's step `at`,
counted from the start of that process; `kill-while-writing` sends SIGKILL when it opens the `at`-th state's
manifest for writing, and `kill-before-rename` before that state gets its name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import Any

from trainer.threads import wait_passively

wait_passively()

from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

import trainer.run  # noqa: E402
import trainer.tasks.text_classification  # noqa: E402, F401
from trainer.__main__ import main  # noqa: E402
from trainer.state_store import MANIFEST_FILE, STAGING_NAME  # noqa: E402


class _Fault:
    """Sends a signal to this process at the `at`-th occasion."""

    def __init__(self, number: signal.Signals, at: int) -> None:
        self._number, self._left = number, at

    def occasion(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)


def _arm(fault: str, at: int) -> None:
    sent = _Fault(signal.SIGTERM if fault == "terminate" else signal.SIGKILL, at)
    if fault in ("kill", "terminate"):
        register_optimizer_step_post_hook(lambda *_: sent.occasion())
        return

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if fault == "kill-before-rename" and event == "os.rename" and STAGING_NAME in str(arguments[0]):
            sent.occasion()
        if fault == "kill-while-writing" and event == "open" and str(arguments[0]).endswith(MANIFEST_FILE):
            sent.occasion()

    sys.addaudithook(audit)


def _attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors.fileno(), 2)
            if attempt.get("fault"):
                _arm(attempt["fault"], attempt["at"])
            code = main(attempt["arguments"])
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "errors": errors.read()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_attempt(json.loads(line))), flush=True)
