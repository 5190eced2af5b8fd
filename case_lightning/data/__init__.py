"""Edits: the record, the formats in which they are published, and their stream as a LightningDataModule."""

from typing import TYPE_CHECKING

from case_lightning.data.checks import check_fits, keep_latest, split_batches
from case_lightning.data.edit import Edit, Locality
from case_lightning.data.files import MissingDataError
from case_lightning.data.formats import FORMATS, detect_format
from case_lightning.data.reading import EditReader, read_edits

if TYPE_CHECKING:
    from case_lightning.data.datamodule import EditDataModule

__all__ = [
    "FORMATS",
    "Edit",
    "EditDataModule",
    "EditReader",
    "Locality",
    "MissingDataError",
    "check_fits",
    "detect_format",
    "keep_latest",
    "read_edits",
    "split_batches",
]


def __getattr__(name: str) -> object:
    """Import `EditDataModule` where it is first used: Lightning is slow to import, and a report need not wait."""
    if name != "EditDataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from case_lightning.data.datamodule import EditDataModule

    return EditDataModule
