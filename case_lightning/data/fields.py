"""Reading one field of a record: what is text, what is nothing, and how a wrong value is named.

Every function takes the raw value and the name under which its file knows it, and raises a `DataError` that says
"name: expected ..., found ...". Whoever knows the record adds its place in front and the remedy behind.
"""

import reprlib
from collections.abc import Iterator, Mapping

from case_lightning.errors import DataError

ID_NAMES = ("id", "case_id")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def describe_value(value: object) -> str:
    """Name a value by its JSON type with a shortened repr on one line: `number 2006`, `nothing`, `list ['a']`."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"text {_REPR.repr(value)}" if value.strip() else f"blank text {_REPR.repr(value)}"
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "truth value"),
        ((int, float), "number"),
        ((list, tuple), "list"),
        (Mapping, "object"),
    )
    kind = next((name for types, name in kinds if isinstance(value, types)), type(value).__name__)
    return f"{kind} {_REPR.repr(value)}"


def field_error(name: str, expected: str, value: object) -> DataError:
    """Build the error of one wrong field."""
    return DataError(f"{name}: expected {expected}, found {describe_value(value)}")


def require_text(value: object, name: str) -> str:
    """Return `value` unchanged if it is text with something in it.

    Raises:
        DataError: If it is missing, not text, blank, or cannot be written as UTF-8 (a lone surrogate escape).
    """
    if not isinstance(value, str) or not value.strip():
        raise field_error(name, "text that is not blank", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        found = value[error.start]
        expected = f"whole characters (position {error.start} is half of a surrogate pair)"
        raise field_error(name, expected, found) from None
    return value


def optional_text(value: object, name: str) -> str | None:
    """Return text, or None where the field is missing, null, blank, or an empty list or object.

    Raises:
        DataError: If it is there but not text.
    """
    if value in (None, [], {}) or (isinstance(value, str) and not value.strip()):
        return None
    return require_text(value, name)


def list_texts(value: object, name: str) -> tuple[str, ...]:
    """Return the texts of a field that holds one text or a list of them, however nested; blanks and nulls are left out.

    Raises:
        DataError: If anything in it is neither text nor a list.
    """
    return tuple(_flatten(value, name))


def first_text(value: object, name: str) -> str | None:
    """Return the first text of a field that holds one answer, or a possibly nested list of accepted answers."""
    return next(iter(list_texts(value, name)), None)


def _flatten(value: object, name: str) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (list, tuple)):
            waiting.extend(reversed(item))
        elif (text := optional_text(item, name)) is not None:
            yield text


def require_object(value: object, name: str) -> Mapping[str, object]:
    """Return `value` if it is a JSON object.

    Raises:
        DataError: If it is anything else.
    """
    if not isinstance(value, Mapping):
        raise field_error(name, "an object", value)
    return value


def read_id(fields: Mapping[str, object], default_id: str | None) -> str:
    """Return a record's identity as text: its `id`, else its `case_id`, else `default_id`.

    Raises:
        DataError: If there is one and it is neither text nor a whole number, or none of the three is known.
    """
    for name in ID_NAMES:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if (text := optional_text(value, name)) is not None:
            return text
    if default_id is None:
        raise field_error("id", "text", None)
    return default_id
