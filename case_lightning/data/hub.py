"""Data sets of the Hugging Face hub, named `hf://owner/name` or `hf://owner/name:split`; needs `datasets`."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from case_lightning.data.files import MissingDataError
from case_lightning.data.records import Record
from case_lightning.errors import DataError

HUB_PREFIX = "hf://"


def read_hub(address: str) -> Iterator[Record]:
    """Read the records of a hub data set: of the split named, else of `train`, else of its only split.

    Raises:
        DataError: If `datasets` is not installed, the data set cannot be loaded, or which split is meant is not clear.
    """
    name, _, split = address.removeprefix(HUB_PREFIX).partition(":")
    if not name.strip("/"):
        raise DataError(f"{address}: expected hf://owner/name or hf://owner/name:split, found no name")
    rows = _load(address, name, split or None)
    return (Record(address, number, None, row) for number, row in enumerate(rows))


def _load(address: str, name: str, split: str | None) -> Any:  # noqa: ANN401
    try:
        load_dataset = import_module("datasets").load_dataset
    except ImportError:
        raise DataError(f"{address}: reading from the hub needs datasets; run pip install datasets") from None
    try:
        loaded = load_dataset(name, split=split)
    except Exception as error:  # network, hub, script and format errors share no base class
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = "check the name, the split and the network, or give a local file as data.path"
        raise MissingDataError(f"{address}: cannot be loaded ({reason}); {remedy}") from error
    return loaded if split else _pick_split(loaded, address)


def _pick_split(splits: Mapping[str, Any], address: str) -> Any:  # noqa: ANN401
    if "train" in splits:
        return splits["train"]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(f"{address}: expected a split, as there is no train; add one of :{', :'.join(splits)}")
