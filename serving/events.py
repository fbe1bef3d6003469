"""The id of a request, which its answer, the request log and the assignments of an A/B test name."""

from __future__ import annotations

import re
import secrets
import time

EVENT_HEADER = "x-gauntlet-event"
EVENT = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def event_of(given: str | None) -> str:
    """The id of a request: the client's own, or a new one that sorts by time (UUID version 7)."""
    if given is not None and EVENT.fullmatch(given):
        return given
    milliseconds, noise = time.time_ns() // 1_000_000, secrets.randbits(74)
    number = milliseconds << 80 | 7 << 76 | (noise >> 62) << 64 | 0b10 << 62 | noise & (2**62 - 1)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
