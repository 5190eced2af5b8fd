"""How numbers and texts of a run are written for a reader."""

import math

ABSENT = "n/a"

_BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_LONGEST_TEXT = 600
_SPACE = "\N{NO-BREAK SPACE}"


def write_share(value: float | None) -> str:
    """Write a share between 0 and 1 with as many digits as 1000 edits can support."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.3f}"


def write_number(value: float | None) -> str:
    """Write a number of any size with three significant digits, a whole one in full."""
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 999.5:
        return f"{value:#.3g}".rstrip(".")
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.2e}"


def write_seconds(value: float | None) -> str:
    """Write a duration, given in seconds."""
    return ABSENT if value is None or not math.isfinite(value) else f"{write_number(value)}{_SPACE}s"


def write_ratio(value: float | None) -> str:
    """Write how many times one thing is another."""
    return ABSENT if value is None or not math.isfinite(value) else f"{write_number(value)}{_SPACE}times"


def write_bytes(value: float | None) -> str:
    """Write a size, given in bytes, in decimal units."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for unit in _BYTE_UNITS:
        if abs(value) < 1000 or unit == _BYTE_UNITS[-1]:
            break
        value /= 1000
    return f"{write_number(value)}{_SPACE}{unit}"


def write_count(count: int, noun: str) -> str:
    """Write a number of things: 1 edit, 2 edits."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shorten(text: str) -> str:
    """Cut a text that would fill the page."""
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rstrip() + " …"
