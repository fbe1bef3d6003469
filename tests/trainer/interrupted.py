"""Trains in processes of their own and ends them at chosen points: `python -m tests.trainer.interrupted`.

Each line of standard input is an attempt, `{"arguments": […], "fault": …, "at": …, "ranks": …}`, also with
variables in `environment`. It is answered by a line with `{"code", "codes", "errors"}`: each rank's exit
code, negative for a signal, as `subprocess` has it, and that of the last rank, which is the one that a fault
is for. Every rank is a fork of this process, which has imported torch but not used it, so that it starts in
an instant, with the variables of torchrun.

Faults: `kill` and `terminate` send SIGKILL and SIGTERM to itself right after the optimizer's step `at`,
counted from the start of that process; `kill-while-writing` sends SIGKILL when it opens the `at`-th state's
manifest for writing, and `kill-before-manifest` when it opens the file `state.json` before that.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from typing import Any

from gauntlet.trainer.process import settle_process

settle_process()

from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

from gauntlet.trainer.__main__ import main  # noqa: E402
from gauntlet.trainer.states import MANIFEST_FILE, STATE_FILE  # noqa: E402

SECONDS_TO_END = 60


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

    files = {"kill-while-writing": MANIFEST_FILE, "kill-before-manifest": STATE_FILE}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[1] == "w" and str(arguments[0]).endswith(files[fault]):
            sent.occasion()

    sys.addaudithook(audit)


def _attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    ranks = attempt["ranks"]
    with tempfile.TemporaryFile("w+") as errors:
        port = _free_port()
        children = [_start_rank(rank, ranks, port, attempt, errors.fileno()) for rank in range(ranks)]
        codes = _wait(children)
        errors.seek(0)
        return {"code": codes[-1], "codes": codes, "errors": errors.read()}


def _wait(children: list[int]) -> list[int]:
    """Exit codes; when one failed the others have a while, then they are killed, as torchrun does it."""
    codes: dict[int, int] = {}
    deadline = math.inf
    while len(codes) < len(children):
        for child in set(children) - codes.keys():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
                deadline = min(deadline, time.monotonic() + SECONDS_TO_END) if codes[child] else deadline
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[child] for child in children]


def _start_rank(rank: int, ranks: int, port: int, attempt: dict[str, Any], errors: int) -> int:
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(errors, 2)
    os.environ |= attempt.get("environment", {})
    if ranks > 1:
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ |= {key: str(number) for key, number in numbers.items()}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if attempt["fault"] and rank == ranks - 1:
        _arm(attempt["fault"], attempt["at"])
    code = 1
    try:
        code = main(attempt["arguments"])
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_attempt(json.loads(line))), flush=True)
