"""States kept of the frozen prefix: a run has the same bits as one that computes them anew for every step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor

from case_lightning.base.suffix import Prefix
from case_lightning.editing import batches, editor, module
from case_lightning.editing.batches import EditBatch, PreparedEdit, PreparedText
from case_lightning.editing.editor import Editor
from tests.editing.tiny_run import make_editor, make_edits

EDITS = make_edits(12)
BATCHES = [EDITS[:4], EDITS[4:8], EDITS[8:]]
Change = Callable[[PreparedText], PreparedText]
Figures = tuple[dict[str, Tensor], list[float]]  # what a run stores, and its losses


class Losses(Callback):
    """Notes the loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: object) -> None:
        self.found.append(outputs["loss"].item())


class Recompute:
    """A prefix that can compute the states of a text anew, beside the same texts as the first time."""

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix
        self.groups: list[list[Tensor]] = []
        self.count = 0

    def __call__(self, sequences: Sequence[Tensor]) -> list[Tensor]:
        self.groups.append(list(sequences))
        return self.prefix(sequences)

    def anew(self, text: PreparedText) -> PreparedText:
        self.count += 1
        tokens = text.encoded.tokens
        group = next(group for group in self.groups if any(one is tokens for one in group))
        place = next(place for place, one in enumerate(group) if one is tokens)
        return replace(text, states=self.prefix(group)[place])


def change_texts(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every text changed before it goes into a batch, of a step or of a measurement."""
    collate = batches.collate

    def changed(
        edits: Sequence[PreparedEdit], texts: Sequence[PreparedText] | None = None, *args: Any, **kwargs: Any
    ) -> EditBatch:
        texts = [edit.text for edit in edits] if texts is None else texts
        return collate(edits, [change(text) for text in texts], *args, **kwargs)

    for place in (batches, editor, module):
        monkeypatch.setattr(place, "collate", changed)


def edit_all(made: Editor, folder: Path) -> Figures:
    """All stored tensors and all losses of a run of three fits."""
    losses = Losses()
    made.trainer.callbacks.append(losses)
    after = [loss for batch in BATCHES for loss in made.edit(batch).losses]
    made.save(folder)
    return load_file(folder / "adapter_model.safetensors"), losses.found + after


def find_difference(one: Figures, other: Figures) -> str:
    """The first thing in which two runs differ by a bit; empty where they do not."""
    (tensors, losses), (other_tensors, other_losses) = one, other
    if losses != other_losses:
        return "losses"
    names = sorted(tensors.keys() | other_tensors.keys())
    same = {name for name in tensors.keys() & other_tensors.keys() if torch.equal(tensors[name], other_tensors[name])}
    return next((name for name in names if name not in same), "")


@pytest.mark.parametrize("storage_dtype", ["float32", "int8"])
@pytest.mark.parametrize("tune_input", [False, True], ids=["fixed input", "tuned input"])
def test_kept_states_give_the_same_bits(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage_dtype: str, tune_input: bool
) -> None:
    subspace = {"storage_dtype": storage_dtype, "tune_input": tune_input}
    kept = edit_all(make_editor(tiny_model, subspace=subspace), tmp_path / "kept")
    made = make_editor(tiny_model, subspace=subspace)
    made.prefix = made.fast_prefix = recompute = Recompute(made.prefix)  # of one dtype here
    change_texts(recompute.anew, monkeypatch)
    computed = edit_all(made, tmp_path / "computed")
    assert len(kept[1]) == 3 * 8 + 12
    assert recompute.count > 3 * 8 * 4  # the new edits of every step, and past ones beside them
    assert find_difference(kept, computed) == ""


def swap_two(states: list[Tensor]) -> None:
    """Give two texts of one length each other's states."""
    pairs = ((one, other) for one in range(len(states)) for other in range(one))
    one, other = next(pair for pair in pairs if len({len(states[place]) for place in pair}) == 1)
    states[one], states[other] = states[other], states[one]


def move_by_a_bit(states: list[Tensor]) -> None:
    """Move one number by as little as it can be moved."""
    states[0][0, 0] = torch.nextafter(states[0][0, 0], torch.tensor(torch.inf))


@pytest.mark.parametrize("spoil", [swap_two, move_by_a_bit])
def test_wrong_states_do_not_give_the_same_bits(
    tiny_model: Path, tmp_path: Path, spoil: Callable[[list[Tensor]], None]
) -> None:
    kept = edit_all(make_editor(tiny_model), tmp_path / "kept")
    made = make_editor(tiny_model)
    prefix = made.prefix

    def spoiled(sequences: Sequence[Tensor]) -> list[Tensor]:
        states = prefix(sequences)
        spoil(states)
        return states

    made.prefix = spoiled
    assert find_difference(kept, edit_all(made, tmp_path / "spoiled")) != ""
