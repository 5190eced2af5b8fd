"""Reading one field of a JSON object whose parts may be absent or null, but not of another kind."""

import math
from collections.abc import Mapping

from case_lightning.errors import RunError


def take_number(values: Mapping[str, object], key: str, place: str) -> float | None:
    """Return a number, or `None` where it is absent, null or not a number (NaN).

    Raises:
        RunError: If something else stands there.
    """
    value = values.get(key)
    if value is None or isinstance(value, (int, float)):
        return None if value is None or math.isnan(value) else float(value)
    raise field_error(place, key, "a number or null", value)


def take_text(values: Mapping[str, object], key: str, place: str) -> str | None:
    """Return a text, or `None` where it is absent or null.

    Raises:
        RunError: If something else stands there.
    """
    value = values.get(key)
    if value is None or isinstance(value, str):
        return value
    raise field_error(place, key, "a text or null", value)


def take_object(values: Mapping[str, object], key: str, place: str) -> dict[str, object]:
    """Return an object, empty where it is absent or null.

    Raises:
        RunError: If something else stands there.
    """
    value = values.get(key)
    if value is None or isinstance(value, dict):
        return value or {}
    raise field_error(place, key, "an object or null", value)


def take_list(values: Mapping[str, object], key: str, place: str) -> list[object]:
    """Return a list, empty where it is absent or null.

    Raises:
        RunError: If something else stands there.
    """
    value = values.get(key)
    if value is None or isinstance(value, list):
        return value or []
    raise field_error(place, key, "a list or null", value)


def field_error(place: str, key: str, expected: str, found: object) -> RunError:
    """Return the error that names a field's place, what was expected there and what was found."""
    return RunError(f"{place}: {key}: expected {expected}, found {str(found)[:80]!r}")
