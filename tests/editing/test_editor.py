import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file
from torch import Tensor

from case_lightning.base.partial import read_projection
from case_lightning.callbacks import SensitiveNeuronMask
from case_lightning.editing.editor import Editor, choose_place, put_adapter
from case_lightning.editing.encoding import encode
from case_lightning.editing.variation import vary_prompt
from case_lightning.errors import BaseModelError, ConfigError
from case_lightning.method.activation import dequantize, quantize
from case_lightning.method.allocation import Allocation
from case_lightning.method.basis import Whitening, build_basis, measure_whitening
from case_lightning.subspace.router import read_calibration
from tests.editing.tiny_run import load_tiny, make_editor, make_edits, make_settings

EDITS = make_edits(12)
BATCHES = [EDITS[:4], EDITS[4:8], EDITS[8:]]
MASKED = [(False, "up"), (True, "down")]  # whether the input is tuned, and then the part whose columns are neurons
over_inputs = pytest.mark.parametrize("tune_input", [False, True], ids=["fixed input", "tuned input"])


class Watch(Callback):
    """Notes the losses of every fit."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses.append([])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: object) -> None:
        self.losses[-1].append(outputs["loss"].item())


def watch(editor: Editor) -> Watch:
    watcher = Watch()
    editor.trainer.callbacks.append(watcher)
    return watcher


def copy_subspaces(editor: Editor) -> list[dict[str, Tensor]]:
    subspaces = editor.adapter.subspaces
    return [
        {name: value.detach().clone() for name, value in subspaces.parameters_of(index).items()}
        for index in range(len(subspaces))
    ]


def mask_of(editor: Editor) -> SensitiveNeuronMask:
    return next(one for one in editor.trainer.callbacks if isinstance(one, SensitiveNeuronMask))


def initial(editor: Editor) -> dict[str, Tensor]:
    """What the first subspace starts from."""
    subspaces = editor.adapter.subspaces
    whitening = Whitening(subspaces.scales, subspaces.directions.float(), subspaces.shrinks)
    down = build_basis(subspaces.rank, whitening, subspaces.seed)
    return {"up": torch.zeros(subspaces.d_out, subspaces.rank), "down": down}


@over_inputs
@pytest.mark.parametrize("frozen_dtype", ["float32", "bfloat16"])
def test_loss_falls_and_targets_are_learned(tiny_model: Path, frozen_dtype: str, tune_input: bool) -> None:
    editor = make_editor(
        tiny_model,
        training={"steps": 60, "learning_rate": 0.1, "n_variants": 0, "frozen_dtype": frozen_dtype},
        subspace={"rank": 8, "tune_input": tune_input},
    )
    assert editor.module.suffix.dtype == getattr(torch, frozen_dtype)
    assert editor.suffix.dtype == torch.float32  # which answers
    assert editor.module.layer.case_adapter is editor.tuner.case_layer.case_adapter
    watcher = watch(editor)
    outcome = editor.edit(BATCHES[0])
    (losses,) = watcher.losses
    assert len(losses) == 60
    assert losses[-1] < 0.5 * losses[0]
    assert max(outcome.losses) < losses[0]
    assert sum(outcome.hits) / 4 > 0.9
    assert editor.trainer.global_step == 60


def test_the_base_model_does_not_change_by_one_bit(tiny_model: Path) -> None:
    editor = make_editor(tiny_model)
    before = load_tiny(tiny_model).model.state_dict()
    for batch in BATCHES:
        editor.edit(batch)
    after = {name.replace(".base_layer", ""): value for name, value in editor.base.model.state_dict().items()}
    assert before.keys() <= after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    frozen = {id(parameter) for name, parameter in editor.base.model.named_parameters() if "case_adapter" not in name}
    assert not frozen & {id(parameter) for parameter in editor.module.parameters()}
    assert all(name.startswith("active.") for name in editor.module.state_dict())


@pytest.mark.parametrize("storage_dtype", ["float32", "int8"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("tune_input", "part"), MASKED)
def test_masked_neurons_do_not_move_by_one_bit(
    tiny_model: Path, weight_decay: float, tune_input: bool, part: str, storage_dtype: str
) -> None:
    editor = make_editor(
        tiny_model,
        conflict={"max_subspaces": 1},
        consolidation={"every": 0},  # which tunes all neurons
        training={"weight_decay": weight_decay},
        subspace={"storage_dtype": storage_dtype, "tune_input": tune_input, "rank": 16},
    )
    mask = mask_of(editor)
    for batch in BATCHES:
        before = (copy_subspaces(editor)[0] if len(editor.adapter.subspaces) else initial(editor))[part]
        if storage_dtype == "int8":
            before = dequantize(*quantize(before.T)).T
        editor.edit(batch)
        assert mask.masks.keys() == {f"active.0.{part}"}
        kept = mask.masks[f"active.0.{part}"]
        after = copy_subspaces(editor)[0][part]
        assert len(kept) == after.shape[1]
        assert 0 < kept.sum() < len(kept)
        assert torch.equal(after[:, ~kept], before[:, ~kept])
        assert (after[:, kept] != before[:, kept]).any(0).all()


def test_other_masks_to_compare_with(tiny_model: Path) -> None:
    """On one batch: a chosen size, the entropy rule's size at random, and another order of the same neurons."""
    masks = {}
    for kind in ("entropy", "top_k", "random", "gradient"):
        editor = make_editor(tiny_model, training={"mask": kind, "mask_size": 5}, subspace={"rank": 16})
        editor.edit(BATCHES[0])
        masks[kind] = mask_of(editor).masks["active.0.up"]
    assert masks["top_k"].sum() == 5
    assert masks["random"].sum() == masks["entropy"].sum()
    assert not torch.equal(masks["random"], masks["entropy"])
    assert masks["gradient"].sum() >= masks["entropy"].sum()  # roots are closer to each other than squares


@pytest.mark.parametrize(("tune_input", "part"), MASKED)
def test_without_the_mask_every_neuron_moves(tiny_model: Path, tune_input: bool, part: str) -> None:
    subspace = {"storage_dtype": "float32", "tune_input": tune_input}
    editor = make_editor(tiny_model, training={"mask": "none"}, subspace=subspace)
    editor.edit(BATCHES[0])
    assert (copy_subspaces(editor)[0][part] != initial(editor)[part]).any(0).all()


@pytest.mark.parametrize(("tune_input", "part"), MASKED)
def test_neurons_are_chosen_by_the_fisher_information_of_their_columns(
    tiny_model: Path, tune_input: bool, part: str
) -> None:
    editor = make_editor(tiny_model, subspace={"tune_input": tune_input})
    module, subspaces = editor.module, editor.adapter.subspaces
    module.prepare(editor.prepare(EDITS[:3]))
    module.assign([Allocation(index, "opened", ()) for index in (0, 1, 0)])
    expected = [torch.zeros(subspaces.d_in if tune_input else subspaces.rank) for _ in range(2)]
    for index, gradient in zip((0, 1, 0), module.example_gradients(), strict=True):
        dense = gradient.left.T @ gradient.right  # (d_out, d_in)
        columns = dense if tune_input else dense @ subspaces.basis(index).T
        for neuron in range(columns.shape[1]):
            expected[index][neuron] += sum(value**2 for value in columns[:, neuron].tolist())
    mask = mask_of(editor)
    found = mask.measure(module, None)
    assert found.keys() == mask.neurons.keys() == {f"active.0.{part}", f"active.1.{part}"}
    for index in range(2):
        torch.testing.assert_close(found[f"active.{index}.{part}"], expected[index], rtol=1e-3, atol=1e-7)


@over_inputs
def test_allocations_are_recorded_and_idle_subspaces_do_not_move(tiny_model: Path, tune_input: bool) -> None:
    editor = make_editor(
        tiny_model,
        conflict={"max_subspaces": 6, "threshold": 0.1},
        consolidation={"every": 0},
        subspace={"tune_input": tune_input},
    )
    idle_seen = False
    decisions = []
    for batch in BATCHES:
        before = copy_subspaces(editor)
        outcome = editor.edit(batch)
        chosen = [allocation.subspace for allocation in outcome.allocations]
        assert chosen == [edit.subspace for edit in editor.past[-len(batch) :]]
        decisions += [allocation.decision for allocation in outcome.allocations]
        for index, (old, new) in enumerate(zip(before, copy_subspaces(editor), strict=False)):
            moved = not all(torch.equal(old[name], value) for name, value in new.items())
            assert moved == (index in chosen)
            idle_seen |= index not in chosen
    assert idle_seen
    assert decisions[0] == "opened"
    assert decisions.count("opened") == len(editor.adapter.subspaces) > 1
    assert sum(editor.module.members()) == len(EDITS)


def test_one_seed_gives_one_adapter(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        editor = make_editor(tiny_model)
        for batch in BATCHES:
            editor.edit(batch)
        editor.save(tmp_path / name)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_another_seed_gives_another_adapter(tiny_model: Path) -> None:
    settings = make_settings(tiny_model)
    settings.seed = 7
    base = load_tiny(tiny_model)
    editor, other = Editor(base, put_adapter(base, settings), settings), make_editor(tiny_model)
    assert editor.tuner.peft_config["default"].seed == 7
    for one in (editor, other):
        one.edit(BATCHES[0])
    assert not torch.equal(editor.adapter.subspaces.basis(0), other.adapter.subspaces.basis(0))


@pytest.mark.parametrize("storage_dtype", ["int8", "float16"])
def test_what_is_in_memory_is_what_is_saved(tiny_model: Path, tmp_path: Path, storage_dtype: str) -> None:
    editor = make_editor(tiny_model, subspace={"storage_dtype": storage_dtype})
    editor.edit(BATCHES[0])
    editor.save(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    name = next(name for name in saved if name.endswith("subspaces.up.0"))
    assert saved[name].dtype == getattr(torch, storage_dtype)
    scale = saved[f"{name}_scale"] if storage_dtype == "int8" else 1
    assert torch.equal(saved[name].float() * scale, editor.adapter.subspaces.up[0])


def test_a_fresh_adapter_is_whitened_by_the_calibration_text(tiny_model: Path) -> None:
    base, settings = load_tiny(tiny_model), make_settings(tiny_model)
    layer = put_adapter(base, settings).base_model.case_layer
    inputs, outputs = read_projection(base.model, layer, read_calibration(base.tokenizer))
    expected = measure_whitening(inputs, settings.subspace.n_directions, outputs.square().mean().sqrt().item())
    torch.testing.assert_close(layer.adapter.subspaces.scales, expected.scales)
    torch.testing.assert_close(layer.adapter.subspaces.shrinks, expected.shrinks)
    assert torch.equal(layer.adapter.subspaces.directions, expected.directions.half())


def test_check_goes_through_the_router(tiny_model: Path) -> None:
    editor = make_editor(tiny_model)
    outcome = editor.edit(BATCHES[0])
    assert editor.check(range(4)) == (outcome.losses, outcome.hits)
    editor.adapter.keys.tokens.fill_(3)  # keys that no prompt matches
    editor.adapter.keys.in_subject.fill_(True)
    editor.tuner._router = None
    losses, _ = editor.check([0, 1, 2, 3])
    assert all(loss != found for loss, found in zip(losses, outcome.losses, strict=True))


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_a_layer_that_is_not_there_is_refused(tiny_model: Path, layer: int) -> None:
    with pytest.raises(BaseModelError, match=f"layer {layer} does not exist"):
        make_editor(tiny_model, base={"layer": layer})


@pytest.mark.parametrize(
    ("device", "trainer", "expected"),
    [
        ("cpu", {}, {"accelerator": "cpu", "devices": 1}),
        ("cpu", {"accelerator": "gpu"}, {"accelerator": "gpu", "devices": 1}),
        ("cuda:1", {}, {"accelerator": "auto", "devices": [1]}),
        ("cuda:0", {"devices": 2}, {"accelerator": "auto", "devices": 2}),
    ],
)
def test_a_fit_is_where_the_base_model_is(device: str, trainer: dict[str, Any], expected: dict[str, Any]) -> None:
    place = choose_place(make_settings(trainer=trainer), torch.device(device))
    assert {name: place[name] for name in expected} == expected


@pytest.mark.parametrize("trainer", [{"accelerator": "tpu"}, {"strategy": "none such"}, {"precision": "3"}], ids=str)
def test_what_lightning_refuses_is_named(tiny_model: Path, trainer: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="trainer: "):
        make_editor(tiny_model, trainer=trainer)


def test_the_router_reads_misspelt_names(tiny_model: Path) -> None:
    editor = make_editor(tiny_model)
    spelling = editor.tuner.router.spelling
    assert spelling is not None
    assert spelling.tokenizer.get_vocab() == editor.base.tokenizer.get_vocab()
    assert spelling.tokenizer is not editor.base.tokenizer  # which another thread may be using
    editor.tuner.read_with(editor.base.tokenizer)
    assert editor.tuner.router.spelling is spelling  # nothing is read anew


def test_wordings_that_do_not_fit_are_left_out(tiny_model: Path) -> None:
    editor = make_editor(tiny_model, training={"n_variants": 8})
    edit = replace(EDITS[0], prompt="The capital of Freedonia is " + "is of " * 24)
    made, most = vary_prompt(edit, 8, editor.settings.seed), editor.base.context_length
    lengths = [len(encode(editor.base.tokenizer, one, edit.target, end=True).tokens) for one in made]
    editor.edit([edit])
    (past,) = editor.past
    kept = [len(one.encoded.tokens) for one in past.variants]
    assert kept == [length for length in lengths if length <= most]
    assert 0 < len(kept) < len(lengths)


def test_a_fit_that_is_told_to_end_ends_with_the_status_of_its_signal(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning leaves a fit then with no status, which a shell takes for success."""
    editor = make_editor(tiny_model)

    def fit(*_: object) -> None:
        raise SIGTERMException

    monkeypatch.setattr(editor.trainer, "fit", fit)
    with pytest.raises(SystemExit) as ended:
        editor.edit(EDITS[:4])
    assert ended.value.code == 128 + signal.SIGTERM
