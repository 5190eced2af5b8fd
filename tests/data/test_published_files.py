"""The published data files: how many edits each holds, and its first record."""

import json
from pathlib import Path

import pytest

from case_lightning.data import EditDataModule, read_edits
from case_lightning.errors import DataError

# file, records, the keys of its first record that hold prompt, target, subject, rephrase, unrelated question and answer
FILES = [
    ("zsre/zsre_mend_edit.json", 1037, ("src", "alt", "subject", "rephrase", "loc", "loc_ans")),
    (
        "selfcheckgpt/hallucination-edit.json",
        600,
        ("prompt", "target_new", "subject", None, "locality_prompt", "locality_ground_truth"),
    ),
    (
        "counterfact/counterfact-edit.json",
        2000,
        ("prompt", "target_new", "subject", "rephrase_prompt", "locality_prompt", "locality_ground_truth"),
    ),
    (
        "temporal/temporal-train.json",
        75,
        ("prompt", "target_new", "subject", None, "locality_prompt", "locality_ground_truth"),
    ),
]


def find_file(folder: Path, name: str) -> Path:
    """Return the file of that name; skips the test where the folder lacks it."""
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in {folder}")
    return folder / name


@pytest.mark.parametrize(("name", "count", "keys"), FILES, ids=[name for name, *_ in FILES])
def test_published_file(name: str, count: int, keys: tuple[str | None, ...], shared_data: Path) -> None:
    path = find_file(shared_data, name)
    edits = read_edits(path)
    assert len(edits) == count
    records = json.loads(path.read_text(encoding="utf-8"))
    for edit, record in zip(edits, records, strict=True):
        rephrase = edit.rephrases[0] if edit.rephrases else None
        near = edit.locality[0]
        found = (edit.prompt, edit.target, edit.subject, rephrase, near.prompt, near.answer)
        assert found == tuple((key and record[key]) or None for key in keys)
    assert [edit.id for edit in edits] == [str(record.get("case_id", n)) for n, record in enumerate(records)]


def test_first_zsre_record(shared_data: Path) -> None:
    first = read_edits(find_file(shared_data, "zsre/zsre_mend_edit.json"), limit=1)[0]
    assert first.prompt == "When was the inception of IAAF Combined Events Challenge?"
    assert first.target == "2006"
    assert first.true_answer == "1998"
    assert first.locality[0].prompt.startswith("nq question: ")


def test_stream_of_a_thousand(shared_data: Path) -> None:
    data = EditDataModule(find_file(shared_data, "zsre/zsre_mend_edit.json"), batch_size=10, limit=1000)
    assert [len(batch) for batch in data.batches()] == [10] * 100
    assert data.skipped == data.dropped == 0


@pytest.mark.parametrize("name", ["nq/nq-open-efficientqa-dev.json", "zsre/irrelevant_prompts.json"])
def test_other_files_are_refused(name: str, shared_data: Path) -> None:
    path = find_file(shared_data, name)
    with pytest.raises(DataError, match=r"record 0: (its fields .* of no known format|expected an object)"):
        read_edits(path)
