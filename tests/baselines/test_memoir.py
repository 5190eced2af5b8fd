"""MEMOIR's masks, retrieval and update against naive restatements."""

import pytest
import torch
from torch import Tensor

from case_lightning.base import Base
from case_lightning.baselines import Memoir, MemoirSettings
from case_lightning.baselines.memoir import add_masked, choose_masks, shorten_to, top_hash
from tests.baselines.cases import Untouched, answer, ask
from tests.editing.tiny_run import make_edits

EDITS = make_edits(4)
SETTINGS = MemoirSettings(n_prefixes=0, steps=4, enough=0)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_mask_is_the_permuted_places_of_the_largest() -> None:
    features, permutation = draw(3, 8), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    masks = top_hash(features, 3, permutation)
    for mask, row in zip(masks, features, strict=True):
        largest = sorted(range(8), key=lambda place: -abs(row[place].item()))[:3]
        assert set(mask.nonzero()[:, 0].tolist()) == {int(permutation[place]) for place in largest}


def test_a_prompt_gets_the_mask_most_like_its_own() -> None:
    stored = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]).bool()
    asked = torch.tensor([[0, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]).bool()
    found = choose_masks(asked, stored, threshold=0.5)
    assert found.int().tolist() == [stored[1].int().tolist(), stored[0].int().tolist(), [0] * 6]
    assert not choose_masks(asked[:1], stored, threshold=0.6).any()


def test_the_memory_is_read_through_the_mask() -> None:
    x, y, memory = draw(2, 3, 5), draw(2, 3, 4, seed=1), draw(4, 5, seed=2)
    masks = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    changed = add_masked(memory, masks)(x, y, 0)
    torch.testing.assert_close(changed[0], y[0] + x[0][:, [0, 2]] @ memory[:, [0, 2]].T)
    assert torch.equal(changed[1], y[1])


def test_a_gradient_is_shortened_only_where_it_is_longer() -> None:
    assert shorten_to(torch.tensor([3.0, 4.0]), 1.0).tolist() == pytest.approx([0.6, 0.8])
    assert shorten_to(torch.tensor([0.3, 0.4]), 1.0).tolist() == pytest.approx([0.3, 0.4])
    assert shorten_to(torch.zeros(2), 1.0).tolist() == [0, 0]


def test_an_edit_is_plain_descent_on_its_columns(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("case_lightning.baselines.trained.choose_dtype", lambda _, model: model.dtype)
    method = Memoir(base, settings=SETTINGS)
    method.edit(EDITS[:1])
    question = ask(base, EDITS[0].prompt, EDITS[0].target)
    weight = base.model.get_submodule(base.architecture.down_projections[method.layer]).weight
    weight.requires_grad_()
    own = weight.detach().clone()
    for _ in range(SETTINGS.steps):
        logits = base.model(input_ids=question.tokens[None]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[question.columns], question.labels)
        gradient = torch.autograd.grad(loss, weight)[0] * method.masks[0]
        weight.data -= gradient / max(gradient.norm().item(), 1)
    change = weight.detach() - own
    weight.data = own
    weight.requires_grad_(False)
    assert change.abs().max() > 0.01
    torch.testing.assert_close(method.memory, change, rtol=1e-3, atol=1e-4)


def test_an_edit_writes_to_its_own_columns_alone(base: Base) -> None:
    method = Memoir(base, settings=SETTINGS)
    method.edit(EDITS[:1])
    before = method.memory.clone()
    method.edit(EDITS[1:2])
    mask = method.masks[1]
    assert mask.sum() == method.active == round(base.architecture.d_in * 4096 / 14336)
    assert torch.equal(method.memory[:, ~mask], before[:, ~mask])
    assert not torch.equal(method.memory[:, mask], before[:, mask])


def test_a_prompt_like_no_edit_is_left_alone_to_the_bit(base: Base) -> None:
    settings = MemoirSettings(n_prefixes=0, steps=4, enough=0, threshold=1.0)
    method = Memoir(base, settings=settings)
    method.edit(EDITS)
    unrelated = [ask(base, "Who founded the newspaper?"), ask(base, "game")]
    plain = answer(Untouched(base), unrelated)
    assert all(torch.equal(one, other) for one, other in zip(answer(method, unrelated), plain, strict=True))
    asked = [ask(base, edit.prompt) for edit in EDITS]
    pairs = zip(answer(method, asked), answer(Untouched(base), asked), strict=True)
    assert not any(torch.equal(one, other) for one, other in pairs)
