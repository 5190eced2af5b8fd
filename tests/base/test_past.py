"""Positions before an edit acts, run once: what comes behind them is what it is when all are run at once."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from case_lightning.base.architecture import find_architecture
from case_lightning.base.past import Past, pad_past
from case_lightning.base.suffix import Prefix, Suffix
from tests.base.test_suffix import COLUMNS, ROWS, draw_texts, pad, run_alone
from tests.subspace.tiny_adapters import EDITED_FAMILIES, build_adapter, build_base

STARTS = [3, 0, 0]  # of texts of 7, 4 and 1 tokens
BEHIND = COLUMNS - torch.tensor(STARTS)[ROWS]


def split_states(model: PreTrainedModel, layer: int) -> tuple[list[Tensor], list[Tensor]]:
    """What enters the edited layer before each text's start, and from there on."""
    states = Prefix(model, find_architecture(model), layer)(draw_texts())
    pairs = list(zip(states, STARTS, strict=True))
    return [state[:start] for state, start in pairs], [state[start:] for state, start in pairs]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", EDITED_FAMILIES)
@torch.no_grad()
def test_what_stands_behind_a_past_is_what_it_is_in_the_whole_text(family: str, layer: int) -> None:
    model = build_base(family)
    architecture = find_architecture(model)
    plain = run_alone(model, draw_texts())
    tuner = build_adapter(model, keys=False, target_modules=[architecture.down_projections[layer]]).base_model
    before, behind = split_states(model, layer)
    suffix = Suffix(model, architecture, layer)
    assert suffix.can_keep_past(Prefix(model, architecture, layer)(draw_texts())[0])
    past = pad_past(suffix.read_past(before))
    found = suffix(pad(behind), ROWS, BEHIND, past=past)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)

    routes, starts = torch.tensor([1, -1, 0]), torch.tensor(STARTS)
    edited = plain.clone()
    for row in (0, 2):
        with tuner.forced_routes(routes[[row]], starts[[row]]):
            edited[row == ROWS] = run_alone(model, draw_texts())[row == ROWS]
    assert not torch.allclose(edited, plain, atol=1e-2)
    suffix.edited.routes = routes
    torch.testing.assert_close(suffix(pad(behind), ROWS, BEHIND, past=past), edited, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gradients_are_those_of_the_whole_text() -> None:
    model = build_base()
    architecture = find_architecture(model)
    layer = build_adapter(model, keys=False, layer=1).base_model.case_layer
    before, behind = split_states(model, 1)
    suffix = Suffix(model, architecture, 1, shared=[layer.case_adapter])
    past = pad_past(suffix.read_past(before))
    whole = [torch.cat(pair) for pair in zip(before, behind, strict=True)]
    parameter = layer.adapter.subspaces.up[0].requires_grad_()
    suffix.edited.routes = torch.zeros(3, dtype=torch.long)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(suffix(pad(behind), ROWS, BEHIND, past=past).square().sum(), parameter)
        suffix.edited.starts = torch.tensor(STARTS)
        (expected,) = torch.autograd.grad(suffix(pad(whole), ROWS, COLUMNS).square().sum(), parameter)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@torch.no_grad()
def test_rows_are_taken_and_padded_on_the_left() -> None:
    model = build_base()
    suffix = Suffix(model, find_architecture(model), 1)
    states = [torch.randn(length, 32, generator=torch.Generator().manual_seed(length)) for length in (0, 3, 1)]
    pasts = suffix.read_past(states)
    past = pad_past(pasts)
    assert past.lengths.tolist() == [0, 3, 1]
    assert len(past.layers) == 2
    for keys, values in past.layers:
        assert keys.shape == values.shape
        assert keys.shape[2] == 3
        assert not keys[0].any()
        assert not keys[2, :, :2].any()
        assert keys[2, :, 2:].any()
    short = past.take(torch.tensor([2, 0]))
    assert short.lengths.tolist() == [1, 0]
    assert same(short, pad_past([pasts[2], pasts[0]]))
    mask, positions = past.place(2)
    assert mask.tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert positions.tolist() == [[0, 1], [3, 4], [1, 2]]


def same(one: Past, other: Past) -> bool:
    pairs = zip(one.layers, other.layers, strict=True)
    return all(torch.equal(k, q) and torch.equal(v, w) for (k, v), (q, w) in pairs)


@torch.no_grad()
def test_nothing_before_any_text() -> None:
    model = build_base()
    suffix = Suffix(model, find_architecture(model), 1)
    states = Prefix(model, find_architecture(model), 1)(draw_texts())
    past = pad_past(suffix.read_past([state[:0] for state in states]))
    assert past.layers[0][0].shape[2] == 0
    found = suffix(pad(states), ROWS, COLUMNS, past=past)
    torch.testing.assert_close(found, run_alone(model, draw_texts()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spoil", ["raises", "other keys"])
def test_a_model_that_cannot_keep_a_past_is_told(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_base()
    suffix = Suffix(model, find_architecture(model), 1)
    state = Prefix(model, find_architecture(model), 1)(draw_texts())[0]
    assert suffix.can_keep_past(state)

    def fill(past: Past, *_: object) -> object:
        if spoil == "raises":
            raise AttributeError("no such cache")
        return Past(tuple((keys * 0, values * 0) for keys, values in past.layers), past.lengths)

    whole = Past.fill_cache
    changed = fill if spoil == "raises" else lambda past, *args: whole(fill(past), *args)
    monkeypatch.setattr(Past, "fill_cache", changed)
    assert not suffix.can_keep_past(state)
