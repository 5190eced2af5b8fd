"""The edit gradient, against autograd with respect to a dense update of the same projection."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from case_lightning.base import Base
from case_lightning.base.partial import read_inputs
from case_lightning.editing.batches import PreparedText, collate
from case_lightning.editing.editor import Editor
from case_lightning.editing.encoding import encode
from case_lightning.method.allocation import Allocation
from case_lightning.subspace import UNEDITED
from tests.editing.tiny_run import load_tiny, make_editor, make_edits

EDITS = make_edits(5)
TRAINED = [(False, {"up"}), (True, {"up", "down"})]  # whether the input is tuned, and what is trained


class DenseUpdate(nn.Module):
    """A projection with a full `ΔW` beside it, from some position on."""

    def __init__(self, projection: nn.Linear, start: int) -> None:
        super().__init__()
        self.projection, self.start = projection, start
        self.update = nn.Parameter(torch.zeros_like(projection.weight))

    def forward(self, x: Tensor) -> Tensor:
        acts = torch.arange(x.shape[1]) >= self.start
        return self.projection(x) + functional.linear(x * acts[:, None], self.update)


def differentiate(base: Base, tokens: Tensor, n_prompt: int, start: int) -> Tensor:
    """`∂L/∂ΔW` of one edit by a plain forward of the whole model, `(d_out, d_in)`."""
    name = base.architecture.down_projections[base.architecture.default_layer]
    parent, _, child = name.rpartition(".")
    projection = base.model.get_submodule(name)
    dense = DenseUpdate(projection, start)
    setattr(base.model.get_submodule(parent), child, dense)
    try:
        logits = base.model(input_ids=tokens[None]).logits[0]
        loss = functional.cross_entropy(logits[n_prompt - 1 : -1], tokens[n_prompt:])
        return torch.autograd.grad(loss, dense.update)[0]
    finally:
        setattr(base.model.get_submodule(parent), child, projection)


@pytest.fixture
def editor(tiny_model: Path) -> Editor:
    return make_editor(tiny_model)


@pytest.mark.parametrize("from_subject", [True, False])
def test_edit_gradients_are_those_of_a_dense_update(tiny_model: Path, from_subject: bool) -> None:
    base, editor = load_tiny(tiny_model), make_editor(tiny_model, subspace={"from_subject": from_subject})
    prepared = editor.prepare(EDITS)
    editor.module.prepare(prepared)
    found = editor.module.example_gradients()
    assert len(found) == len(EDITS)
    starts = [one.text.encoded.start for one in prepared]
    assert (max(starts) > 0) == from_subject
    for edit, gradient, start in zip(EDITS, found, starts, strict=True):
        encoded = encode(base.tokenizer, edit.prompt, edit.target, end=True)
        expected = differentiate(base, encoded.tokens, encoded.n_prompt, start)
        delta_x = gradient.left.T @ gradient.right  # G, (d_out, d_in)
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(delta_x, -expected, rtol=1e-3, atol=1e-6)  # G is the direction of descent


def test_gradients_do_not_depend_on_who_shares_the_pass(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = editor.prepare(EDITS)
    editor.module.prepare(prepared)
    together = editor.module.gradients
    monkeypatch.setattr("case_lightning.editing.module.ASSESS_ROWS", 2)
    editor.module.prepare(prepared)
    for (delta, x), (other_delta, other_x) in zip(together, editor.module.gradients, strict=True):
        torch.testing.assert_close(delta, other_delta, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(x, other_x, rtol=1e-3, atol=1e-6)


def test_gradients_are_taken_at_the_initial_subspace(editor: Editor) -> None:
    """What subspaces have learned since changes nothing about them."""
    prepared = editor.prepare(EDITS)
    editor.module.prepare(prepared)
    before = editor.module.gradients
    editor.module.assign([Allocation(0, "opened", ()) for _ in EDITS])
    with torch.no_grad():
        editor.adapter.subspaces.up[0].normal_()
    editor.module.prepare(prepared)
    for (delta, _), (other, _) in zip(before, editor.module.gradients, strict=True):
        assert torch.equal(delta, other)


def test_a_descent_step_agrees_with_the_gradient(editor: Editor) -> None:
    """The sign that makes agreement positive: moving ΔW along G lowers the loss."""
    editor.module.prepare(editor.prepare(EDITS[:1]))
    (gradient,) = editor.module.example_gradients()
    editor.module.assign([Allocation(0, "opened", ())])
    subspaces = editor.adapter.subspaces
    dense = gradient.left.T @ gradient.right
    with torch.no_grad():  # the part of G that the initial A can reach
        subspaces.up[0].copy_(1e-2 * dense @ torch.linalg.pinv(subspaces.basis(0)))
    assert subspaces.direction(0).inner(gradient) > 0
    edited, unedited = collate(editor.module.new), collate(editor.module.new)
    unedited.routes.fill_(UNEDITED)
    with torch.no_grad():
        assert editor.module.nll(edited).mean() < editor.module.nll(unedited).mean()


@pytest.mark.parametrize(("tune_input", "parts"), TRAINED)
def test_the_frozen_model_is_not_the_modules(tiny_model: Path, tune_input: bool, parts: set[str]) -> None:
    editor = make_editor(tiny_model, subspace={"tune_input": tune_input})
    module = editor.module
    assert [name for name, _ in module.named_parameters()] == []
    module.prepare(editor.prepare(EDITS[:2]))
    module.assign([Allocation(0, "opened", ()), Allocation(1, "opened", (-0.5,))])
    names = {f"active.{index}.{part}" for index in range(2) for part in parts}
    assert {name for name, _ in module.named_parameters()} == set(module.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in editor.base.model.parameters() if parameter.dim() == 1)


@pytest.mark.parametrize(("tune_input", "parts"), TRAINED)
def test_only_active_subspaces_are_trained(tiny_model: Path, tune_input: bool, parts: set[str]) -> None:
    editor = make_editor(tiny_model, subspace={"tune_input": tune_input})
    module = editor.module
    module.prepare(editor.prepare(EDITS[:1]))
    module.assign([Allocation(2, "opened", (-0.5, -0.1))])
    assert len(editor.adapter.subspaces) == 3
    assert module.members() == [0, 0, 1]
    trained = {name for name, parameter in editor.adapter.subspaces.named_parameters() if parameter.requires_grad}
    assert trained == {f"{part}.2" for part in parts}


@pytest.mark.parametrize("from_subject", [True, False])
def test_keys_are_the_features_of_every_wording(tiny_model: Path, from_subject: bool) -> None:
    base = load_tiny(tiny_model)
    editor = make_editor(tiny_model, subspace={"from_subject": from_subject}, training={"n_variants": 3})
    editor.adapter.subspaces.open()
    prepared = replace(editor.prepare(EDITS[:1])[0], subspace=0)
    projection = base.model.get_submodule(base.architecture.down_projections[base.architecture.default_layer])
    assert len(prepared.variants) > 1

    def square(text: PreparedText) -> Tensor:
        (inputs,) = read_inputs(base.model, [projection], text.encoded.tokens[None])
        features = inputs[0, text.encoded.start :] @ editor.adapter.subspaces.basis(0).T
        return features.T @ features

    variants = sum(square(text) for text in prepared.variants) / len(prepared.variants)
    keys = editor.module.read_keys(prepared)
    torch.testing.assert_close(keys.T @ keys, (square(prepared.text) + variants) / 2, rtol=1e-3, atol=1e-5)


def test_past_edits_are_protected_as_when_they_were_made(tiny_model: Path) -> None:
    settings = {"subspace": {"rank": 64}, "consolidation": {"every": 0}, "memory": {"weight": 0.0}}
    made, again = make_editor(tiny_model, **settings), make_editor(tiny_model, **settings)
    made.edit(EDITS[:3])
    made.edit(EDITS[3:])
    for _ in range(max(made.subspaces) + 1):
        again.adapter.subspaces.open()
    again.recall(EDITS[:3], made.subspaces[:3])
    again.recall(EDITS[3:], made.subspaces[3:])
    assert made.protection
    assert again.protection
    for name, moment in made.protection.moments.items():
        assert moment.total.any()
        assert torch.equal(moment.total, again.protection.moments[name].total)
        assert moment.count == again.protection.moments[name].count


def test_protection_keeps_past_edits_without_rehearsal(tiny_model: Path) -> None:
    losses = {}
    for strength in (0.0, 1.0):
        training = {"n_rehearsed": 0, "protection": strength, "steps": 30}
        sections = {"subspace": {"rank": 64}, "consolidation": {"every": 0}, "conflict": {"max_subspaces": 1}}
        editor = make_editor(tiny_model, training=training, memory={"weight": 0.0, "size": 0}, **sections)
        editor.edit(EDITS[:2])
        editor.edit(EDITS[2:])
        losses[strength] = editor.check(range(len(EDITS)))[0]
    assert sum(losses[1.0][:2]) < 0.7 * sum(losses[0.0][:2])


def test_a_tuned_input_side_is_not_protected(tiny_model: Path) -> None:
    assert make_editor(tiny_model, subspace={"tune_input": True}).protection is None
