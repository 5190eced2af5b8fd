"""WISE's routing, margins, masks and merging against naive restatements."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from case_lightning.base import Base
from case_lightning.baselines import Wise, WiseSettings
from case_lightning.baselines.irrelevant import draw_irrelevant
from case_lightning.baselines.ties import merge_updates, trim
from case_lightning.baselines.wise import MAIN, choose_memories, margin_loss, routing_activation
from tests.baselines.cases import Untouched, answer, ask, nll
from tests.editing.tiny_run import make_edits

EDITS = make_edits(4)
MARGINS = (0.5, 2.0, 1.0)
SETTINGS = WiseSettings(margins=MARGINS, steps=25, learning_rate=1.0)
FEW = WiseSettings(margins=MARGINS, steps=3, learning_rate=1.0, shard_edits=1, merged_shards=2)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_activation_is_the_mean_length_over_tokens() -> None:
    keys, weight, changed = [draw(3, 5), draw(1, 5, seed=1)], draw(4, 5, seed=2), draw(4, 5, seed=3)
    found = routing_activation(keys, changed - weight)
    for one, key in zip(found.tolist(), keys, strict=True):
        lengths = [math.dist((changed @ token).tolist(), (weight @ token).tolist()) for token in key]
        assert one == pytest.approx(sum(lengths) / len(lengths), rel=1e-5)


def test_the_margin_loss_is_that_of_the_paper() -> None:
    inside, outside = 4 * draw(50).abs(), 4 * draw(50, seed=1).abs()
    alpha, beta, gamma = MARGINS
    pairs = list(zip(inside.tolist(), outside.tolist(), strict=True))
    expected = [max(0, out - alpha) + max(0, beta - into) + max(0, gamma - (into - out)) for into, out in pairs]
    assert margin_loss(inside, outside, MARGINS).item() == pytest.approx(sum(expected) / 50, rel=1e-5)
    assert margin_loss(torch.tensor([2.0]), torch.tensor([0.5]), MARGINS) == 0


def test_a_prompt_goes_to_the_most_active_memory_above_its_threshold() -> None:
    activations = torch.tensor([[1.0, 5.0, 5.0, 0.0], [2.0, 6.0, 4.0, 3.0]])
    found = choose_memories(activations, torch.tensor([4.0, 3.0]))
    assert found.tolist() == [MAIN, 1, 0, MAIN]


def naive_ties(updates: list[list[float]], density: float) -> list[float]:
    kept = max(round(density * len(updates[0])), 1)
    trimmed = []
    for update in updates:
        least = sorted((abs(entry) for entry in update), reverse=True)[kept - 1]
        trimmed.append([entry if abs(entry) >= least else 0.0 for entry in update])
    merged = []
    for entries in zip(*trimmed, strict=True):
        sign = math.copysign(1, sum(entries))
        agreeing = [entry for entry in entries if entry * sign > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return merged


@pytest.mark.parametrize("density", [0.2, 0.53, 1.0])
def test_merging_is_ties(density: float) -> None:
    updates = draw(3, 40)
    expected = naive_ties(updates.tolist(), density)
    assert merge_updates(updates, density).tolist() == pytest.approx(expected, rel=1e-5)
    assert trim(updates[0], density).count_nonzero() == round(density * 40)


def test_irrelevant_prompts_are_different_lines(base: Base) -> None:
    drawn = draw_irrelevant(base.tokenizer, 20, seed=0)
    assert len({tuple(one.tolist()) for one in drawn}) == 20
    assert [one.tolist() for one in drawn] == [one.tolist() for one in draw_irrelevant(base.tokenizer, 20, seed=0)]
    assert drawn[0].tolist() != draw_irrelevant(base.tokenizer, 20, seed=1)[0].tolist()


def test_only_masked_weights_move_within_the_bound(base: Base) -> None:
    method = Wise(base, settings=WiseSettings(margins=MARGINS, steps=10, learning_rate=1.0, bound=0.05))
    method.edit(EDITS[:2])
    delta = method.memories[0].delta
    share = delta.count_nonzero().item() / delta.numel()
    assert share == pytest.approx(0.2, abs=0.04)
    assert delta.abs().max().item() == pytest.approx(0.05)
    assert not delta[~method.mask].any()


@pytest.mark.parametrize(("retrieve", "counts"), [(True, [2, 2, 1]), (False, [4, 1])])
def test_shards_are_merged_in_time(base: Base, retrieve: bool, counts: list[int]) -> None:
    settings = replace(FEW, retrieve=retrieve)
    method = Wise(base, settings=settings)
    method.edit([*EDITS, EDITS[0]])
    assert [memory.n_edits for memory in method.memories] == counts
    assert [memory.merged for memory in method.memories] == [True] * (len(counts) - 1) + [False]


def test_every_edit_passes_its_threshold(base: Base) -> None:
    """Learning the later ones changes what the earlier ones' prompts activate."""
    method = Wise(base, settings=SETTINGS)
    method.edit(EDITS)
    questions = [ask(base, edit.prompt, edit.target) for edit in EDITS]
    for found, plain in zip(answer(method, questions), answer(Untouched(base), questions), strict=True):
        assert not torch.equal(found, plain)
    last = questions[-1]
    assert nll(answer(method, [last])[0], last) < nll(answer(Untouched(base), [last])[0], last) - 0.1


@pytest.mark.parametrize("retrieve", [True, False])
def test_the_threshold_is_of_all_edits_as_the_memory_is_now(base: Base, retrieve: bool) -> None:
    method = Wise(base, settings=replace(FEW, shard_edits=2, merged_shards=2, retrieve=retrieve))
    method.edit([*EDITS, EDITS[0]])
    merged, last = method.memories
    for memory, edits in ((merged, EDITS), (last, EDITS[:1])):
        keys = method.read_keys([ask(base, edit.prompt, edit.target).prompt for edit in edits])
        assert memory.least == pytest.approx(routing_activation(keys, memory.delta).min().item(), rel=1e-5)


def test_the_threshold_of_loaded_edits_is_kept(base: Base) -> None:
    method, loaded = Wise(base, settings=SETTINGS), Wise(base, settings=SETTINGS)
    method.edit(EDITS[:2])
    loaded.load_state(method.state())
    loaded.edit(EDITS[2:])
    assert loaded.memories[0].least <= method.memories[0].least


def test_what_stays_below_the_threshold_is_left_alone_to_the_bit(base: Base) -> None:
    """The published locality of 1.00: the unedited weights themselves answer."""
    method = Wise(base, settings=SETTINGS)
    method.edit(EDITS[:1])
    question = ask(base, EDITS[0].prompt, EDITS[0].target)
    plain = answer(Untouched(base), [question])[0]
    assert not torch.equal(answer(method, [question])[0], plain)
    method.memories[0].least *= 10
    assert torch.equal(answer(method, [question])[0], plain)
