"""Data sets by hub name, read from a folder of that name, and the errors of loading one."""

import json
import sys
from pathlib import Path

import pytest

from case_lightning.data import Edit, read_edits
from case_lightning.errors import DataError

datasets = pytest.importorskip("datasets")

ROWS = [{"prompt": "p", "target_new": "t", "subject": None}, {"prompt": "q", "target_new": "u", "subject": "s"}]
EDITS = [Edit("0", "p", "t"), Edit("1", "q", "u", "s")]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def write_splits(*splits: str) -> None:
    Path("owner/name").mkdir(parents=True)
    for split in splits:
        Path(f"owner/name/{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))


@pytest.mark.parametrize(
    ("splits", "address", "count"),
    [
        (["train", "test"], "hf://owner/name", 2),
        (["test"], "hf://owner/name", 2),
        (["train", "test"], "hf://owner/name:test", 2),
        (["train", "test"], "hf://owner/name:test[:1]", 1),
    ],
)
def test_splits(splits: list[str], address: str, count: int) -> None:
    write_splits(*splits)
    assert read_edits(address) == EDITS[:count]


def test_columns_are_mapped() -> None:
    write_splits("train")
    assert read_edits("hf://owner/name", columns={"prompt": "prompt", "target": "target_new"})[1] == Edit("1", "q", "u")


def test_place_names_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS[1], "target_new", "")
    write_splits("train")
    with pytest.raises(DataError, match=r"^hf://owner/name: record 1: target_new: expected text"):
        read_edits("hf://owner/name")


def test_unclear_split() -> None:
    write_splits("test", "validation")
    with pytest.raises(DataError, match="expected a split, as there is no train; add one of :"):
        read_edits("hf://owner/name")


@pytest.mark.parametrize("address", ["hf://", "hf:///", "hf://:train"])
def test_no_name(address: str) -> None:
    with pytest.raises(DataError, match="expected hf://owner/name or hf://owner/name:split, found no name"):
        read_edits(address)


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), ValueError("Unknown split"), RuntimeError()])
def test_loading_fails_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"^hf://owner/name: cannot be loaded \(.+\); check the name") as caught:
        read_edits("hf://owner/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("path", "package"), [("hf://owner/name", "datasets"), ("edits.parquet", "pyarrow")])
def test_missing_package(path: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"needs {package}; run pip install {package}"):
        read_edits(path)
