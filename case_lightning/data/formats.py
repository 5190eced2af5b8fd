"""The formats by name, told apart by the keys of a record.

| format | told by | reader |
|---|---|---|
| `edits` | `target` | ours, and every table or data set with a column map |
| `zsre` | `src` | MEND's ZsRE |
| `counterfact` | `requested_rewrite` | nested CounterFact |
| `easyedit` | `target_new`, or `text` with `labels` | EasyEdit's flat layout |
| `selfcheckgpt`, `temporal`, `knowedit` | (as `easyedit`) | other names of it |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from textwrap import shorten

from case_lightning.data.counterfact import read_counterfact
from case_lightning.data.easyedit import read_easyedit
from case_lightning.data.edit import Edit
from case_lightning.data.own import OWN_FIELDS, read_own
from case_lightning.data.records import Record
from case_lightning.data.zsre import read_zsre
from case_lightning.errors import ConfigError, DataError

ReadEdit = Callable[[Mapping[str, object], str], Edit]

FORMATS: dict[str, ReadEdit] = {
    "edits": read_own,
    "zsre": read_zsre,
    "counterfact": read_counterfact,
    "easyedit": read_easyedit,
    "selfcheckgpt": read_easyedit,
    "temporal": read_easyedit,
    "knowedit": read_easyedit,
}

_SIGNATURES: tuple[tuple[str, frozenset[str]], ...] = (
    ("counterfact", frozenset({"requested_rewrite"})),
    ("zsre", frozenset({"src"})),
    ("easyedit", frozenset({"target_new"})),
    ("easyedit", frozenset({"text", "labels"})),
    ("edits", frozenset({"target"})),
)


def detect_format(records: Sequence[Record]) -> str:
    """Return the name of the format of the first record whose keys tell one.

    Where no record is an object at all, the answer is `edits`: each record's own error then says what it is.

    Raises:
        DataError: If there are objects, but their keys tell no format.
    """
    objects = [record.value for record in records if isinstance(record.value, Mapping)]
    # A table made of unlike records has every column in every row: keys with a value tell more than keys alone.
    for keys in chain(map(_list_valued, objects), (fields.keys() for fields in objects)):
        for name, signature in _SIGNATURES:
            if signature <= keys:
                return name
    if any("prompt" in fields and fields.keys() <= set(OWN_FIELDS) for fields in objects):
        return "edits"  # what it lacks, the record's own error says
    if objects:
        raise _unknown_format(next(record for record in records if isinstance(record.value, Mapping)))
    return "edits"


def _list_valued(fields: Mapping[str, object]) -> set[str]:
    return {key for key, value in fields.items() if value is not None}


def _unknown_format(record: Record) -> DataError:
    keys = shorten(", ".join(map(str, record.open_fields())) or "none", 200)
    remedy = "name the columns, as in --data.columns.prompt question --data.columns.target answer"
    return DataError(f"{record.place}: its fields ({keys}) are of no known format ({', '.join(FORMATS)}); {remedy}")


def choose_reader(format: str, columns: Mapping[str, str] | None, records: list[Record]) -> ReadEdit:  # noqa: A002
    """Return the function that reads these records.

    Raises:
        ConfigError: If there is no format of that name, or a column map comes with a format other than ours.
        DataError: If the format is `auto` and cannot be told.
    """
    if columns and format in ("auto", "edits"):
        return read_own
    if columns:
        raise ConfigError(f"data.format: expected auto beside data.columns, found {format!r}; drop one of the two")
    if format == "auto":
        return FORMATS[detect_format(records)]
    if format not in FORMATS:
        raise ConfigError(f"data.format: expected auto or one of {', '.join(FORMATS)}; found {format!r}")
    return FORMATS[format]


def map_columns(records: list[Record], columns: Mapping[str, str] | None) -> list[Record]:
    """Rename the columns of records to our field names; columns that are not in the map are left out.

    Args:
        records: The records under their own names.
        columns: Our field name to the file's column name.

    Raises:
        ConfigError: If the map names a field that is not ours, or a column that no record has.
    """
    if not columns:
        return records
    known = {key for record in records if isinstance(record.value, Mapping) for key in record.value}
    for field, column in columns.items():
        if field not in OWN_FIELDS:
            raise ConfigError(f"data.columns: expected a field of {', '.join(OWN_FIELDS)}; found {field!r}")
        if column not in known:
            found = ", ".join(sorted(known))
            raise ConfigError(f"data.columns.{field}: expected a column of the data ({found}), found {column!r}")
    return [_rename(record, columns) for record in records]


def _rename(record: Record, columns: Mapping[str, str]) -> Record:
    if not isinstance(record.value, Mapping):
        return record
    return replace(record, value={field: record.value.get(column) for field, column in columns.items()})
