"""JSON in the forms in which edits are published: a list, one object a line, or a list under `data`.

The form is told by looking at the text, not by the file's name.
"""

import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from case_lightning.data.fields import describe_value
from case_lightning.data.records import Record
from case_lightning.errors import DataError


class MissingDataError(DataError, FileNotFoundError):
    """There is no file at the path given, or no data set that can be loaded."""


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        MissingDataError: If there is no such file.
        DataError: If it is a directory or cannot be read.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(
                f"{path}: expected a file that can be read again, found a pipe or device; save it as a file"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingDataError(f"{path}: no such file; give an existing one as data.path, or hf://owner/name") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected a file, found a directory; give a file in it as data.path") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise DataError(f"{path}: cannot be read ({error}); check the path and its permissions") from None


def read_text(path: Path) -> str:
    """Return a file's text; a byte-order mark is dropped.

    Raises:
        DataError: If it cannot be read or is not UTF-8.
    """
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02x} at offset {error.start} (line {line})"
        raise DataError(f"{path}: expected UTF-8 text, found {found}; save the file as UTF-8") from None


def read_json(path: Path) -> Iterator[Record]:
    """Read the records of a JSON or JSONL file.

    Raises:
        DataError: If the file as a whole is not JSON. A broken line of JSONL is an error of its record alone.
    """
    text = read_text(path)
    if path.suffix.lower() == ".jsonl" and not text.lstrip().startswith("["):
        return _read_lines(text, path)
    try:
        value = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and getattr(error, "msg", "") == "Extra data":
            return _read_lines(text, path)
        raise DataError(f"{path}: broken JSON ({error}); correct or re-export the file") from None
    return (Record(str(path), number, None, item) for number, item in enumerate(_unwrap(value, path)))


def _unwrap(value: object, path: Path) -> list[object]:
    if isinstance(value, dict):
        value = value.get("data", [value])
    if isinstance(value, list):
        return value
    forms = "a list of edits, one edit a line, or an object with the list under data"
    raise DataError(f"{path}: expected {forms}; found {describe_value(value)}")


def _read_lines(text: str, path: Path) -> Iterator[Record]:
    # Not splitlines(): U+2028 and its like may stand unescaped inside a JSON string.
    lines = ((line, content) for line, content in enumerate(text.split("\n"), start=1) if content.strip())
    for number, (line, content) in enumerate(lines):
        yield Record(str(path), number, line, _parse_line(content))


def _parse_line(content: str) -> object:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:  # its own words count lines within this one
        return DataError(f"broken JSON at column {error.colno} ({error.msg})")
    except (ValueError, RecursionError) as error:
        return DataError(f"broken JSON ({error})")


def locate_data(path: str) -> str:
    """Where data is; `sample` is the sample that the package carries."""
    if path == "sample":
        return str(files("case_lightning.data") / "samples" / "updates.jsonl")
    return os.path.expanduser(path)
