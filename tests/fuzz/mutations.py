"""Seeded damage to bytes and to nested values."""

from __future__ import annotations

import copy
import datetime
import json
import random
from typing import Any

NASTY: tuple[Any, ...] = (
    "", " ", "\0", "\ud800", "😀", "\u202e", "x" * 5000, "a\nb", "[/b]", ":heart:", "{{x}}", "{x}", "%s",
    "~", "$HOME", "../x", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x",
    "reference://x::file:///x", "a::b", "floppy://x", "package://", "package://json/x", "yes", "1e400",
    "2026-13-45", "0x10", "-", "=", "NaN", "é", "e\u0301", "train.csv", -1, 0, 1, 2, 2**31, 2**53, 2**63,
    2**64, 10**400, -(2**63), 1e308, -1e308, 1e-308, 0.1, float("nan"), float("inf"), True, False, None, [],
    {}, [[]], [None], {"": 1}, {"a": 1}, [1, "a"], datetime.date(2026, 1, 1), b"\xff", [0] * 300,
)  # fmt: skip
TOKENS = (
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b'""', b"'", b",",
    b";", b"\t", b"\\", b"{", b"}", b"[", b"]", b"[" * 500, b"{" * 500, b"1" * 5000, b"-", b"NaN", b"null",
    b"1e999", b"&a", b"*a", b": ", b"- ", b"!!python/object:os.system x", b"!!binary x", b"<<: *a", b"? ",
    b"\xf0\x9f\x98\x80", b"\x1f\x8b", b"PAR1", b"\x00\x00\x08\x03", b"\\ud800", b"\\u0000",
    b"0x" + b"f" * 5000, b"1:" * 2000 + b"1", b"a" * 70000,
)  # fmt: skip


def damaged_bytes(draw: random.Random, content: bytes) -> bytes:
    """The content with a few pieces removed, repeated, moved, overwritten or inserted."""
    for _ in range(draw.choice((1, 1, 1, 2, 4, 12))):
        at, end = sorted(draw.randint(0, len(content)) for _ in range(2))
        end = min(end, at + draw.choice((1, 2, 8, 64, 4096)))
        piece = draw.choice(
            (
                b"",
                draw.choice(TOKENS),
                bytes([draw.randrange(256)]),
                content[at:end] * 2,
                content[at:end][::-1],
            )
        )
        content = content[:at] + piece + content[draw.choice((at, end, min(len(content), at + len(piece)))) :]
    return content[: draw.randint(0, len(content))] if draw.random() < 0.05 else content


def damaged_value(draw: random.Random, content: Any) -> Any:
    """A copy of nested lists and mappings with a few values replaced, removed, renamed, moved or nested."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        places = list(_places(content))
        if not places:
            return _nasty(draw)
        holder, key = draw.choice(places)
        kind = draw.randrange(7)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[_hashable(draw)] = holder.pop(key)
        elif kind == 2 and isinstance(holder, dict):
            holder[_hashable(draw)] = _nasty(draw)
        elif kind == 3:
            other, at = draw.choice(places)
            holder[key] = copy.deepcopy(other[at]) if at in other or isinstance(other, list) else None
        elif kind == 4:
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"a": holder[key]}
        else:
            holder[key] = _nasty(draw)
    return content


def as_json(content: Any) -> bytes:
    """JSON, with NaN and lone surrogates as Python writes them, and texts for what JSON has not."""
    return json.dumps(_plain_keys(content), default=str).encode()


def _plain_keys(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key if isinstance(key, str) else str(key): _plain_keys(value) for key, value in content.items()
        }
    if isinstance(content, list):
        return [_plain_keys(value) for value in content]
    return content


def _nasty(draw: random.Random) -> Any:
    """A copy, for what is damaged next may be in it."""
    return copy.deepcopy(draw.choice(NASTY))


def _hashable(draw: random.Random) -> Any:
    value = draw.choice(NASTY)
    return str(value) if isinstance(value, dict | list) else value


def _places(content: Any) -> Any:
    """Every (mapping or list, key) that holds a value."""
    keys = (
        content.keys()
        if isinstance(content, dict)
        else range(len(content))
        if isinstance(content, list)
        else ()
    )
    for key in list(keys):
        yield content, key
        yield from _places(content[key])
