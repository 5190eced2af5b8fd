"""A record on its way from a file to an edit, and the words that name its place."""

from collections.abc import Mapping
from dataclasses import dataclass

from case_lightning.data.fields import describe_value
from case_lightning.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """What a file holds at one place, before it is known to be usable.

    Args:
        source: The file or data set it came from.
        number: Its index in there, from 0.
        line: Its line from 1, where the file has one record a line.
        value: The parsed value, or the error that kept it from being parsed; raised only if the record is wanted.
    """

    source: str
    number: int
    line: int | None
    value: object

    @property
    def place(self) -> str:
        """The words that lead a reader to the record: `edits.jsonl: record 3 (line 4)`."""
        line = "" if self.line is None else f" (line {self.line})"
        return f"{self.source}: record {self.number}{line}"

    def open_fields(self) -> Mapping[str, object]:
        """Return the record's fields.

        Raises:
            DataError: If it could not be parsed or is not an object.
        """
        if isinstance(self.value, DataError):
            raise self.value
        if not isinstance(self.value, Mapping):
            raise DataError(f"expected an object with a prompt and a target, found {describe_value(self.value)}")
        return self.value

    def place_error(self, error: DataError) -> DataError:
        """Return the error with this record's place in front of it."""
        return DataError(f"{self.place}: {error}")
