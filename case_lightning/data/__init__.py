"""Edits: the record, the formats in which they are published, and their stream as a LightningDataModule."""

from case_lightning.data.checks import check_fits, keep_latest, split_batches
from case_lightning.data.datamodule import EditDataModule
from case_lightning.data.edit import Edit, Locality
from case_lightning.data.files import MissingDataError
from case_lightning.data.formats import FORMATS, detect_format
from case_lightning.data.reading import EditReader, read_edits

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
