"""From a path to a list of edits: open, tell the format, read, check; the one entry for all formats."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from case_lightning.data.checks import check_unique_id
from case_lightning.data.edit import Edit
from case_lightning.data.fields import ID_NAMES
from case_lightning.data.files import read_json
from case_lightning.data.formats import ReadEdit, choose_reader, map_columns
from case_lightning.data.hub import HUB_PREFIX, read_hub
from case_lightning.data.records import Record
from case_lightning.data.tables import read_csv, read_parquet
from case_lightning.errors import ConfigError, DataError

OnError = Literal["raise", "skip"]
CheckEdit = Callable[[Edit], None]

_TABLES = {".csv": read_csv, ".tsv": read_csv, ".parquet": read_parquet}


@dataclass(frozen=True, slots=True)
class EditReader:
    """Reads edits and remembers which records it had to leave out.

    Args:
        format: A name of `FORMATS`, or `auto` to tell it by looking at the records.
        columns: Our field name to the file's column name, for files that are in no format of `FORMATS`.
        on_error: `raise` at the first record that cannot be used, or `skip` such records.
        check: Raises `DataError` for an edit that is well-formed but shall not be taken.
        skipped: One line for each record that the last `read` left out.

    Raises:
        ConfigError: If `on_error` is anything else.
    """

    format: str = "auto"
    columns: Mapping[str, str] | None = None
    on_error: OnError = "raise"
    check: CheckEdit | None = None
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse an unknown way to treat errors."""
        if self.on_error not in ("raise", "skip"):
            raise ConfigError(f"data.on_error: expected raise or skip, found {self.on_error!r}")

    def read(self, path: str | Path, limit: int | None = None, offset: int = 0) -> list[Edit]:
        """Read the edits of `limit` records from record `offset` on; only these records are checked.

        Args:
            path: A file, or `hf://owner/name[:split]`.
            limit: How many records to take, skipped ones among them; None for all.
            offset: How many records to pass over.

        Raises:
            ConfigError: If `limit`, `offset`, `format` or `columns` cannot be used with this data.
            DataError: If the data cannot be read, or nothing is left of it.
        """
        _check_slice(limit, offset)
        self.skipped.clear()
        records = map_columns(_read_records(path), self.columns)
        if not records:
            raise DataError(f"{path}: expected edits, found none; the data set is empty")
        if offset >= len(records):
            raise ConfigError(f"data.offset: expected less than the {len(records)} records of {path}, found {offset}")
        read_edit = choose_reader(self.format, self.columns, records)
        wanted = islice(records, offset, None if limit is None else offset + limit)
        edits = list(self._read_wanted(wanted, read_edit, _list_given_ids(records)))
        self._report(path, len(edits))
        return edits

    def _read_wanted(self, records: Iterable[Record], read_edit: ReadEdit, given_ids: set[str]) -> Iterator[Edit]:
        places: dict[str, str] = {}
        for record in records:
            try:
                edit = read_edit(record.open_fields(), _make_id(record.number, given_ids))
                if self.check:
                    self.check(edit)
                check_unique_id(edit, record.place, places)
            except DataError as error:
                self._skip_or_raise(record.place_error(error))
            else:
                yield edit

    def _skip_or_raise(self, error: DataError) -> None:
        if self.on_error == "raise":
            remedy = "correct the record, or pass --data.on_error skip to leave such records out"
            raise DataError(f"{error}; {remedy}") from None
        self.skipped.append(str(error))

    def _report(self, path: str | Path, kept: int) -> None:
        if not kept:
            found = f"none of {len(self.skipped)} records can be used; the first: {self.skipped[0]}"
            raise DataError(f"{path}: {found}; correct the records, or see data.format and data.columns")
        if self.skipped:
            from lightning.pytorch.utilities import rank_zero_warn  # slow to import: a report need not wait

            total = kept + len(self.skipped)
            rank_zero_warn(f"{path}: {len(self.skipped)} of {total} records skipped; the first: {self.skipped[0]}")


def read_edits(
    path: str | Path,
    format: str = "auto",  # noqa: A002
    columns: Mapping[str, str] | None = None,
    on_error: OnError = "raise",
    limit: int | None = None,
    offset: int = 0,
) -> list[Edit]:
    """Read the edits of a file or a hub data set, whatever its format.

    Args:
        path: JSON, JSONL, CSV, TSV, Parquet, or `hf://owner/name[:split]`.
        format: A name of `FORMATS`, or `auto` to tell it by looking at the records.
        columns: Our field name to the file's column name, for files that are in no format of `FORMATS`.
        on_error: `raise` at the first record that cannot be used, or `skip` such records with a warning.
        limit: How many records to take, skipped ones among them; None for all.
        offset: How many records to pass over.

    Raises:
        ConfigError: If an argument cannot be used with this data.
        DataError: If the data cannot be read, a record cannot be used, or nothing is left.
    """
    return EditReader(format, columns, on_error).read(path, limit, offset)


def check_count(value: object, key: str, least: int) -> None:
    """Check that a setting is a whole number of at least `least`.

    Raises:
        ConfigError: If it is not; the message names `key`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key}: expected a whole number of at least {least}, found {value!r}")


def _list_given_ids(records: list[Record]) -> set[str]:
    fields = (record.value for record in records if isinstance(record.value, Mapping))
    return {str(values[name]) for values in fields for name in ID_NAMES if values.get(name) is not None}


def _make_id(number: int, given_ids: set[str]) -> str:
    # A record without an id among others with numbers for ids must not take one of theirs.
    return str(number) if str(number) not in given_ids else f"record-{number}"


def _check_slice(limit: int | None, offset: int) -> None:
    check_count(offset, "data.offset", least=0)
    if limit is not None:
        check_count(limit, "data.limit", least=1)


def _read_records(path: str | Path) -> list[Record]:
    if str(path).startswith(HUB_PREFIX):
        return list(read_hub(str(path)))
    file = Path(path)
    return list(_TABLES.get(file.suffix.lower(), read_json)(file))
