"""How figures are written. Each function is also a Jinja filter; an absent value becomes a dash."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

from gauntlet.manifests.kinds import known_metric

ABSENT = "–"
EXCERPT_CHARS = 400
SHORT_HASH = 12
THOUSAND, MILLION = 1_000, 1_000_000
TITLES = {
    "speedup": "speed-up",
    "perplexity_gain": "perplexity gain",
    "rouge_l_gain": "ROUGE-L gain",
    "non_inferiority": "non-inferiority",
    "class_f1_drop": "class-F1 drop",
}
POWER_OF_TEN = re.compile(r"e(-?)\+?0*")  # Python pads exponents to two digits
NBSP = "\N{NO-BREAK SPACE}"


def is_figure(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show: neither absent, NaN nor infinite."""
    return value is not None and math.isfinite(value)


def minus(first: float | None, second: float | None) -> float | None:
    """The difference, or None if either is not a number."""
    return first - second if is_figure(first) and is_figure(second) else None


def decimal(value: float | None, digits: int = 3) -> str:
    """Fixed digits: 0.882."""
    return f"{value:.{digits}f}" if is_figure(value) else ABSENT


def signed(value: float | None, digits: int = 3) -> str:
    """Fixed digits with a real minus sign: +0.012, −0.004."""
    return f"{value:+.{digits}f}".replace("-", "−") if is_figure(value) else ABSENT


def general(value: bool | float | str | None) -> str:
    """Four significant digits, more for thousands, or the word itself: 0.75, 12,500, 2.3e-5, true."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if not is_figure(value):
        return ABSENT
    size = abs(value)
    digits = f"{size:,.0f}" if THOUSAND <= size < MILLION else POWER_OF_TEN.sub(r"e\1", f"{size:.4g}")
    return f"−{digits}" if value < 0 else digits


def signed_general(value: float | None) -> str:
    """As `general`, with a sign: +0.75, −12,500."""
    return f"+{general(value)}" if is_figure(value) and value > 0 else general(value)


def count(value: float | None) -> str:
    """Whole, thousands apart: 16,000."""
    return f"{value:,.0f}" if is_figure(value) else ABSENT


def percent(fraction: float | None, digits: int = 0) -> str:
    """A fraction of 1 as a percentage; a small one is never shown as nothing."""
    if not is_figure(fraction):
        return ABSENT
    floor = 10.0**-digits
    if 0 < fraction * 100 < floor:
        return f"<{NBSP}{floor:.{digits}f}{NBSP}%"
    return f"{fraction * 100:.{digits}f}{NBSP}%"


def milliseconds(value: float | None) -> str:
    """Three significant digits: 0.812 ms, 4.31 ms, 153 ms."""
    if not is_figure(value):
        return ABSENT
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{NBSP}ms"


def times(value: float | None) -> str:
    """A ratio in three digits, so that 2.26× is not taken for 2.3×."""
    if not is_figure(value):
        return ABSENT
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def megabytes(value: float | None) -> str:
    """22.8 MB."""
    return f"{value:.1f}{NBSP}MB" if is_figure(value) else ABSENT


def gigabytes(value: float | None) -> str:
    """1.24 GB."""
    return f"{value:.2f}{NBSP}GB" if is_figure(value) else ABSENT


def dollars(value: float | None) -> str:
    """Cents, and more digits below ten of them: $0.0042."""
    if not is_figure(value):
        return ABSENT
    return f"${value:,.4f}" if 0 < value < 0.1 else f"${value:,.2f}"


def duration(value: timedelta | float | None) -> str:
    """Seconds, or a timedelta: 0.4 s, 42 s, 2 min 41 s, 3 h 05 min."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not is_figure(seconds):
        return ABSENT
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min{NBSP}{whole % 60:02d}{NBSP}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NBSP}h{NBSP}{minutes % 60:02d}{NBSP}min"


def moment(value: datetime | None) -> str:
    """A minute in UTC, so that a page is the same wherever it is made."""
    return ABSENT if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def short_hash(value: str | None) -> str:
    """The first digits of a hash; anything else is left as it is."""
    if not value:
        return ABSENT
    is_hash = len(value) > SHORT_HASH and set(value) <= set("0123456789abcdef")
    return value[:SHORT_HASH] + "…" if is_hash else value


def words(name: str) -> str:
    """A key of a rule, a check or a file as words: class_f1_drop → class-F1 drop."""
    return TITLES.get(name) or known_metric(name).title


def capitalize_first(text: str) -> str:
    """The first letter as a capital, the others as they are."""
    return text[:1].upper() + text[1:]


def excerpt(text: object, limit: int = EXCERPT_CHARS) -> str:
    """The beginning of a text that may be of any length, and how long it is if it was cut."""
    whole = str(text)
    return whole if len(whole) <= limit else f"{whole[:limit]}… ({len(whole):,} characters)"


def sign(operator: str) -> str:
    """An operator as it is written: ≥ for >=."""
    return {">=": "≥", "<=": "≤"}.get(operator, operator)
