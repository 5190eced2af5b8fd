"""The stream: its batches, its slice, what is dropped within a batch, and its use by stock Lightning."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import lightning
import pytest
import torch

from case_lightning.data import Edit, EditDataModule, Locality, check_fits, keep_latest, split_batches
from case_lightning.errors import ConfigError, DataError

WriteEdits = Callable[..., Path]


@pytest.fixture
def write_edits(tmp_path: Path) -> WriteEdits:
    def write(*pairs: tuple[str, object]) -> Path:
        path = tmp_path / "edits.json"
        path.write_text(json.dumps([{"prompt": prompt, "target": target} for prompt, target in pairs]))
        return path

    return write


@pytest.fixture
def seven(write_edits: WriteEdits) -> Path:
    return write_edits(*((f"p{number}", f"t{number}") for number in range(7)))


def list_ids(batches: Iterable[list[Edit]]) -> list[list[str]]:
    return [[edit.id for edit in batch] for batch in batches]


SLICES = [
    ({}, ["0123456"]),
    ({"batch_size": 3}, ["012", "345", "6"]),
    ({"batch_size": 1, "limit": 2}, ["0", "1"]),
    ({"batch_size": 3, "limit": 4, "offset": 2}, ["234", "5"]),
    ({"batch_size": 7, "limit": 99}, ["0123456"]),
    ({"batch_size": 9, "offset": 6}, ["6"]),
]


@pytest.mark.parametrize(("settings", "expected"), SLICES)
def test_batches_in_order(settings: dict[str, int], expected: list[str], seven: Path) -> None:
    data = EditDataModule(seven, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    ids = [list(batch) for batch in expected]
    assert list_ids(data.batches()) == ids
    assert list_ids(data.train_dataloader()) == ids
    assert [edit.id for edit in data.edits] == list("".join(expected))
    assert (data.skipped, data.dropped) == (0, 0)


WRONG_SETTINGS = [
    ({"batch_size": 0}, "data.batch_size: expected a whole number of at least 1, found 0"),
    ({"batch_size": 2.5}, "data.batch_size: expected a whole number of at least 1, found 2.5"),
    ({"batch_size": True}, "data.batch_size: expected a whole number of at least 1, found True"),
    ({"limit": 0}, "data.limit: expected a whole number of at least 1, found 0"),
    ({"limit": -3}, "data.limit: expected a whole number of at least 1, found -3"),
    ({"offset": -1}, "data.offset: expected a whole number of at least 0, found -1"),
    ({"offset": 7}, "data.offset: expected less than the 7 records of .*edits.json, found 7"),
    ({"on_error": "stop"}, "data.on_error: expected raise or skip, found 'stop'"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG_SETTINGS)
def test_wrong_settings(settings: dict[str, object], message: str, seven: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        EditDataModule(seven, **settings).setup()  # type: ignore[arg-type]


def test_only_the_slice_is_checked(write_edits: WriteEdits) -> None:
    path = write_edits(("p", ""), ("q", "t"), ("r", 5))
    assert list_ids(EditDataModule(path, offset=1, limit=1).batches()) == [["1"]]


def test_data_is_read_once_and_not_before_it_is_needed(seven: Path) -> None:
    data = EditDataModule(seven)
    assert len(data.edits) == 7
    seven.unlink()
    data.setup("fit")
    assert len(data.edits) == 7


def test_batches_belong_to_the_caller(seven: Path) -> None:
    data = EditDataModule(seven)
    next(data.batches()).clear()
    assert len(data.edits) == 7


def test_skipped_records_are_counted(write_edits: WriteEdits) -> None:
    data = EditDataModule(write_edits(("p", "t"), ("q", 5), ("r", "t")), batch_size=2, on_error="skip")
    with pytest.warns(UserWarning, match="1 of 3 records skipped"):
        data.setup()
    assert data.skipped == 1
    assert list_ids(data.batches()) == [["0", "2"]]


# Each edit is one character: the prompt. Two of one letter in one batch are one prompt.
STREAMS = [
    ("abc", 3, ["abc"]),
    ("aab", 3, ["1b"]),
    ("aba", 3, ["b2"]),
    ("aaaa", 4, ["3"]),
    ("abab", 2, ["ab", "ab"]),
    ("aabc", 2, ["1", "bc"]),
]


@pytest.mark.parametrize(("prompts", "batch_size", "expected"), STREAMS)
@pytest.mark.parametrize("same_target", [True, False])
def test_later_edit_of_a_prompt_wins_within_a_batch(
    prompts: str, batch_size: int, expected: list[str], same_target: bool
) -> None:
    edits = [Edit(str(n), prompt, "t" if same_target else f"t{n}") for n, prompt in enumerate(prompts)]
    names = [[edit.id if word.isdigit() else edit.prompt for edit, word in zip(batch, words, strict=True)]
             for batch, words in zip(split_batches(edits, batch_size), expected, strict=True)]  # fmt: skip
    assert ["".join(name) for name in names] == expected


def test_batch_size_does_not_change_what_is_known_in_the_end() -> None:
    edits = [Edit(str(number), f"p{number % 4}", f"t{number}") for number in range(12)]
    known = [
        {edit.prompt: edit.target for batch in split_batches(edits, size) for edit in batch} for size in range(1, 13)
    ]
    assert all(state == known[0] for state in known)


def test_prompts_are_compared_without_white_space_and_with_case() -> None:
    batch = [Edit("0", "Who  is\nit? ", "a"), Edit("1", "Who is it?", "b"), Edit("2", "who is it?", "c")]
    assert [edit.id for edit in keep_latest(batch)] == ["1", "2"]


def test_dropped_edits_are_counted(write_edits: WriteEdits) -> None:
    data = EditDataModule(write_edits(("p", "t"), ("p", "u"), ("q", "t"), ("q", "t"), ("p", "v")), batch_size=4)
    with pytest.warns(UserWarning, match="2 edits dropped: their prompt comes again later in their batch"):
        data.setup()
    assert data.dropped == 2
    assert [(edit.prompt, edit.target) for edit in data.edits] == [("p", "u"), ("q", "t"), ("p", "v")]


def test_a_subject_that_its_prompt_does_not_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    subjects = ("the TOWN of Ebsford", "Ebsfort", None, " Ebsford ")
    records = [{"prompt": f"Who is the mayor of the town of Ebsford, {i}?", "target": "x"} for i in range(4)]
    named = [record | {"subject": subject} for record, subject in zip(records, subjects, strict=True)]
    path.write_text("\n".join(map(json.dumps, named)))
    with pytest.warns(UserWarning, match="in 1 of 4 edits the prompt does not name the subject.* edit '1', 'Ebsfort'"):
        EditDataModule(path).setup()


def count_words(text: str) -> int:
    return len(text.split())


FITS = [
    (Edit("a", "one two", "three four"), None),
    (
        Edit("a", "one two", "three four five"),
        "the prompt and its answer together to fit the context of 4 tokens, found 5",
    ),
    (Edit("a", "one", "two", rephrases=("one", "1 2 3 4")), r"rephrases\[1\] .* found 5"),
    (Edit("a", "one", "two", locality=(Locality("1 2 3"), Locality("1 2 3", "4 5"))), r"locality\[1\] .* found 5"),
    (Edit("a", "one", "two", locality=(Locality("1 2 3 4"),)), r"locality\[0\] .* found 5"),  # scored with a mark
]


@pytest.mark.parametrize(("edit", "message"), FITS)
def test_check_fits(edit: Edit, message: str | None) -> None:
    if message is None:
        check_fits(edit, count_words, 4)
        return
    with pytest.raises(DataError, match=f"edit 'a': expected {message}"):
        check_fits(edit, count_words, 4)


def test_the_token_that_ends_an_answer_takes_a_place_where_it_is_learned() -> None:
    edit = Edit("a", "one two", "three", rephrases=("1 2 3",))
    check_fits(edit, count_words, 4, n_end=1)
    with pytest.raises(DataError, match="the prompt and its answer together to fit the context of 3 tokens, found 4"):
        check_fits(edit, count_words, 3, n_end=1)


def test_require_fit_applies_to_the_stream(write_edits: WriteEdits) -> None:
    path = write_edits(("one", "two"), ("one two", "three"))
    data = EditDataModule(path)
    assert len(data.edits) == 2
    data.require_fit(count_words, 2)
    with pytest.raises(
        DataError, match=rf"^{path}: record 1: edit '1': .* context of 2 tokens, found 3; correct the record"
    ):
        data.setup()
    data = EditDataModule(path, on_error="skip")
    data.require_fit(count_words, 2)
    with pytest.warns(UserWarning, match="1 of 2 records skipped"):
        assert list_ids(data.batches()) == [["0"]]


class Recorder(lightning.LightningModule):
    """A stock module with one weight that notes what it is handed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[list[Edit]] = []

    def training_step(self, batch: list[Edit], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.weight.sum() * len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize("hand_over", ["datamodule", "loader"])
def test_stock_lightning_fit(hand_over: str, seven: Path, tmp_path: Path) -> None:
    data = EditDataModule(seven, batch_size=3)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Recorder()
    trainer.fit(module, data if hand_over == "datamodule" else data.train_dataloader())
    assert module.seen == list(data.batches())
    assert all(isinstance(edit, Edit) for batch in module.seen for edit in batch)
