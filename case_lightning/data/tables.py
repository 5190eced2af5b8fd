"""Tables: CSV, TSV and Parquet, one record a row under the names of the header."""

import csv
import io
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from case_lightning.data.files import read_bytes, read_text
from case_lightning.data.records import Record
from case_lightning.errors import DataError

LONGEST_CELL = 2**31 - 1  # characters: whole articles, rather than the module's 131,072


def read_csv(path: Path) -> Iterator[Record]:
    """Read the rows of a CSV file, or of a TSV file by its suffix; the first row names the columns.

    Raises:
        DataError: If the file is not UTF-8, two columns share a name, or a quote is left open.
    """
    csv.field_size_limit(LONGEST_CELL)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        _refuse_twins(header, path)
        filled = (row for row in rows if row)
        for number, row in enumerate(filled):
            yield Record(str(path), number, rows.line_num, _name_cells(header, row))
    except csv.Error as error:
        place = f"{path}: broken CSV at line {rows.line_num}"
        raise DataError(f"{place} ({error}); correct or re-export the file") from None


def _refuse_twins(header: list[str], path: Path) -> None:
    twins = sorted({name for name in header if header.count(name) > 1})
    if twins:
        raise DataError(f"{path}: line 1: more than one column is named {', '.join(twins)}; rename them")


def _name_cells(header: list[str], row: list[str]) -> object:
    if len(row) != len(header):
        return DataError(f"expected {len(header)} cells as in the header, found {len(row)}")
    return dict(zip(header, row, strict=True))


def read_parquet(path: Path) -> Iterator[Record]:
    """Read the rows of a Parquet file; needs pyarrow.

    Raises:
        DataError: If pyarrow is not installed or the file is not Parquet.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; run pip install pyarrow") from None
    raw = read_bytes(path)
    try:
        rows = parquet.read_table(io.BytesIO(raw)).to_pylist()
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: no value of Python's
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read as Parquet ({reason}); correct or re-export the file") from None
    return (Record(str(path), number, None, row) for number, row in enumerate(rows))
