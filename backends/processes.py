"""Describe how a process that Gauntlet started ended."""

from __future__ import annotations

import signal

SHELLS_SIGNAL = 128
"""A shell's exit code is this plus the number of the signal that ended its command."""


def how_ended(code: int) -> str:
    """`was ended by SIGSEGV` or `ended with exit code 3`, as its exit code says."""
    number = -code if code < 0 else code - SHELLS_SIGNAL
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with exit code {code}"
    if number == signal.SIGKILL:
        return f"was ended by {name}, which the system sends when memory runs out, but others can send it too"
    return f"was ended by {name}"
