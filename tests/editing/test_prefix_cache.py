"""States kept of the frozen prefix: a run has the same bits as one that computes them anew for every step."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor

from case_lightning.base.suffix import Prefix, Suffix
from case_lightning.editing import batches, editor, module
from case_lightning.editing.batches import EditBatch, PreparedEdit, PreparedText
from case_lightning.editing.editor import Editor
from case_lightning.editing.encoding import Encoded
from case_lightning.editing.preparation import Preparation
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
    """Runs the frozen layers, and can run them anew for a text, beside the same texts as the first time."""

    def __init__(self, prepare: Preparation) -> None:
        self.run = prepare._run
        self.groups: list[tuple[Prefix, Suffix, Sequence[Encoded]]] = []
        self.count = 0

    def __call__(self, prefix: Prefix, suffix: Suffix, encoded: Sequence[Encoded]) -> list[PreparedText]:
        self.groups.append((prefix, suffix, encoded))
        return self.run(prefix, suffix, encoded)

    def anew(self, text: PreparedText) -> PreparedText:
        self.count += 1
        group = next(group for group in self.groups if any(one is text.encoded for one in group[2]))
        place = next(place for place, one in enumerate(group[2]) if one is text.encoded)
        return self.run(*group)[place]


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
    assert made.prepare.keeps_past
    made.prepare._run = recompute = Recompute(made.prepare)
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
    states[0][-2, 0] = torch.nextafter(states[0][-2, 0], torch.tensor(torch.inf))


def move_the_past(states: list[Tensor]) -> None:
    """Move a number before the first position that an edit acts on."""
    states[0][0, 0] += 0.01


@pytest.mark.parametrize("spoil", [swap_two, move_by_a_bit, move_the_past])
def test_wrong_states_do_not_give_the_same_bits(
    tiny_model: Path, tmp_path: Path, spoil: Callable[[list[Tensor]], None]
) -> None:
    kept = edit_all(make_editor(tiny_model), tmp_path / "kept")
    made = make_editor(tiny_model)
    prefix, suffix = made.prepare.exact

    def spoiled(sequences: Sequence[Tensor]) -> list[Tensor]:
        states = prefix(sequences)
        spoil(states)
        return states

    made.prepare.exact = (spoiled, suffix)
    assert find_difference(kept, edit_all(made, tmp_path / "spoiled")) != ""
