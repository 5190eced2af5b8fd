"""Allocation on somebody else's adapters: against dense matrices, at its bounds, over fits and across a restart."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from case_lightning.callbacks import Allocatable, ConflictAllocation, conflict_allocation
from case_lightning.method.conflict import OuterSum, Sketch
from tests.callbacks.tiny_modules import (
    D_IN,
    D_OUT,
    Adapted,
    TwoLayers,
    draw_batch,
    fit,
    fit_again,
    load,
    make_trainer,
)
from tests.method.naive import dense, dense_cosine

Edit = tuple[int, float]  # which input is on, and what the first output is to be

SAY_YES, SAY_NO, OTHER_YES = (0, 1.0), (0, -1.0), (1, 1.0)


def examples(*edits: Edit) -> tuple[Tensor, Tensor]:
    inputs, targets = torch.zeros(len(edits), D_IN), torch.zeros(len(edits), D_OUT)
    for row, (feature, answer) in enumerate(edits):
        inputs[row, feature], targets[row, 0] = 1.0, answer
    return inputs, targets


class Case(NamedTuple):
    name: str
    fits: list[list[Edit]]
    expected: list[str]  # per edit: o(pened), s(hared) or f(orced), and the subspace
    settings: dict[str, Any] | None = None


CASES = [
    Case("agreeing-in-a-batch", [[SAY_YES, SAY_YES]], ["o0", "s0"]),
    Case("contradicting-in-a-batch", [[SAY_YES, SAY_NO]], ["o0", "o1"]),
    Case("unrelated-in-a-batch", [[SAY_YES, OTHER_YES]], ["o0", "s0"]),
    Case("spread-over-several", [[SAY_NO, SAY_YES, SAY_YES, SAY_NO]], ["o0", "o1", "s1", "s0"]),
    Case("agreeing-over-fits", [[SAY_YES], [SAY_YES]], ["o0", "s0"]),
    Case("contradicting-over-fits", [[SAY_YES], [SAY_NO], [SAY_NO], [SAY_YES]], ["o0", "o1", "s1", "s0"]),
    Case("bound", [[SAY_YES], [SAY_NO]], ["o0", "f0"], {"max_subspaces": 1}),
    Case("bound-in-a-batch", [[SAY_YES, SAY_NO]], ["o0", "f0"], {"max_subspaces": 1}),
    Case("capacity", [[SAY_YES], [SAY_YES], [SAY_YES]], ["o0", "o1", "o2"], {"capacity": 1}),
    Case("capacity-in-a-batch", [[SAY_YES] * 5], ["o0", "s0", "o1", "s1", "o2"], {"capacity": 2}),
    Case("all-full", [[SAY_YES] * 3], ["o0", "o1", "o2"], {"capacity": 1, "max_subspaces": 1}),
    Case("threshold", [[SAY_YES, OTHER_YES]], ["o0", "o1"], {"threshold": 0.1}),
    Case("everything-in-one", [[SAY_YES, SAY_NO], [SAY_NO]], ["o0", "s0", "s0"], {"threshold": -1.0}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_allocation_over_fits(case: Case) -> None:
    allocation = ConflictAllocation(score="raw", **case.settings or {})
    module = Adapted(examples(*case.fits[0]))
    trainer = make_trainer(allocation, max_epochs=0)
    found = []
    for edits in case.fits:
        module.coming = examples(*edits)
        fit_again(trainer, module, [module.coming])
        found += [f"{one.decision[0]}{one.subspace}" for one in allocation.allocations]
        assert module.routes == [one.subspace for one in allocation.allocations]
    assert found == case.expected
    assert sum(module.counts) == len(found)
    assert len(module.subspaces) == 1 + max(int(one[1:]) for one in found)


def test_a_subspace_is_there_before_the_optimizer_is_and_is_trained() -> None:
    module = Adapted(examples(SAY_YES, SAY_NO))
    fit(module, [module.coming] * 60, ConflictAllocation(score="raw"))
    inputs = module.coming[0]
    answers = [module.subspaces[route](x)[0].item() for route, x in zip(module.routes, inputs, strict=True)]
    assert answers == pytest.approx([1.0, -1.0], abs=0.1)


class ExactSketch(Sketch):
    """Keeps the whole matrix."""

    def __init__(self, d_out: int, d_in: int, size: int) -> None:
        super().__init__(d_out, d_in, size)
        self.rows, self.columns = torch.eye(d_out), torch.eye(d_in)


def scores_of_members(past: Sequence[Tensor], past_routes: Sequence[int], gradient: Tensor) -> list[float]:
    """Against the members of each subspace, each less the mean of those before it."""
    means = [past[0], *(torch.stack(list(past[:count])).mean(0) for count in range(1, len(past) + 1))]
    scores = []
    for subspace in sorted(set(past_routes)):
        mine = [index for index, route in enumerate(past_routes) if route == subspace]
        held = torch.stack([past[index] - means[index] for index in mine]).sum(0)
        scores.append(dense_cosine(held, gradient - means[-1]) if held.norm() > 0 else 0.0)
    return scores


def scores_naively(module: Adapted, past: Sequence[Tensor], routes: Sequence[int], centred: bool) -> list[list[float]]:
    """Dense scores of the coming examples, each also against those before it in subspaces that this batch opened."""
    subspaces = [one.up.detach() @ one.down.detach() for one in module.subspaces]
    n_old, past, rows = len(subspaces), list(past), []
    for gradient, route in zip(map(dense, module.example_gradients()), routes, strict=True):
        mean = torch.stack(past).mean(0) if centred and past else torch.zeros_like(gradient)
        rows.append([dense_cosine(subspace, gradient - mean) for subspace in subspaces])
        if route == len(subspaces):
            subspaces.append(gradient.clone())
        elif route >= n_old:
            subspaces[route] += gradient
        past.append(gradient)
    return rows


@pytest.mark.parametrize("score", ["raw", "centred"])
def test_scores_are_those_of_dense_matrices(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflict_allocation, "Sketch", ExactSketch)
    allocation = ConflictAllocation(score=score, max_subspaces=4)
    module = Adapted(draw_batch(0))
    trainer = make_trainer(allocation, max_epochs=0)
    past: list[Tensor] = []
    for seed in range(4):
        module.coming = draw_batch(seed)
        before = Adapted(module.coming)
        before.subspaces.extend(type(one)() for one in module.subspaces)
        before.load_state_dict(module.state_dict())
        fit_again(trainer, module, [module.coming] * 3)
        expected = scores_naively(before, past, module.routes, score == "centred")
        assert [list(one.scores) for one in allocation.allocations] == [
            pytest.approx(row, abs=1e-4) for row in expected
        ]
        past += map(dense, module.example_gradients())
    assert len(module.subspaces) > 1
    torch.testing.assert_close(allocation.mean, torch.stack(past).mean(0))
    assert allocation.count == len(past)


def test_members_scores_are_those_of_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflict_allocation, "Sketch", ExactSketch)
    allocation = ConflictAllocation(score="members", capacity=6, max_subspaces=4)
    past: list[Tensor] = []
    routes: list[int] = []
    module = Adapted(draw_batch(0))
    for seed in range(4):
        module.coming = draw_batch(seed)
        for gradient, one in zip(module.example_gradients(), allocation.allocate(module), strict=True):
            if past:
                expected = scores_of_members(past, routes, dense(gradient))
                assert list(one.scores) == pytest.approx(expected, abs=1e-4)
            past.append(dense(gradient))
            routes.append(one.subspace)
    assert len(set(routes)) == 5  # 20 examples, six a subspace; a full one makes place


def test_a_saved_state_does_not_go_on_with_the_stream() -> None:
    allocation = ConflictAllocation()
    module = Adapted(draw_batch(0))
    allocation.allocate(module)
    state = allocation.state_dict()
    totals = [total.clone() for total in state["totals"]]
    allocation.allocate(module)
    assert all(torch.equal(*pair) for pair in zip(state["totals"], totals, strict=True))
    assert state["count"] == 5


@pytest.mark.parametrize(("score", "n_subspaces"), [("raw", 1), ("centred", 2), ("members", 2)])
def test_a_common_part_hides_a_contradiction_from_the_raw_score_only(score: str, n_subspaces: int) -> None:
    """Every edit asks for output 2 as well; many such have been seen."""
    inputs, targets = examples(SAY_YES, SAY_NO)
    targets[:, 2] = 1.2
    module = Adapted((inputs, targets))
    allocation = ConflictAllocation(score=score)
    first, second = module.example_gradients()
    allocation.mean, allocation.count = Sketch(D_OUT, D_IN, conflict_allocation.SKETCH_SIZE)(first + second) / 2, 50
    fit(module, [module.coming], allocation)
    assert len(module.subspaces) == n_subspaces


def test_a_gradient_that_is_not_finite_does_not_stay_in_the_mean() -> None:
    allocation = ConflictAllocation()
    module = Adapted(examples(SAY_YES, SAY_YES))
    module.coming[1][0] = torch.inf
    fit(module, [module.coming], allocation)
    assert allocation.mean.isfinite().all()
    assert allocation.count == 1


def test_a_restart_goes_on_as_if_there_had_been_none() -> None:
    whole, first, second = ConflictAllocation(), ConflictAllocation(), ConflictAllocation()
    modules = [Adapted(draw_batch(0)) for _ in range(2)]
    trainers = [fit(module, [module.coming], one) for module, one in zip(modules, (whole, first), strict=True)]
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    for module in modules:
        module.coming = draw_batch(1)
    fit_again(trainers[0], modules[0], [modules[0].coming])
    fit(modules[1], [modules[1].coming], second)
    assert second.allocations == whole.allocations
    torch.testing.assert_close(second.mean, whole.mean)
    assert second.count == whole.count
    pair = modules[0].example_gradients()[:2]
    assert ConflictAllocation().assess(0, *pair) != whole.assess(0, *pair)
    for kept, again in zip(whole.totals, second.totals, strict=True):
        torch.testing.assert_close(kept, again)


def test_state_of_a_fresh_one_loads() -> None:
    allocation = ConflictAllocation()
    allocation.load_state_dict(ConflictAllocation().state_dict())
    assert (allocation.mean, allocation.count) == (None, 0)


class Validated(Adapted):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_only_a_fit_allocates() -> None:
    allocation = ConflictAllocation()
    module = Validated(examples(SAY_YES))
    make_trainer(allocation).validate(module, load([module.coming]), verbose=False)
    assert (allocation.allocations, len(module.subspaces)) == ([], 0)


def test_without_examples_nothing_is_opened() -> None:
    module = Adapted(examples())
    assert ConflictAllocation().allocate(module) == []
    assert len(module.subspaces) == 0


class HalfAllocatable(TwoLayers):
    def directions(self) -> list[OuterSum]:
        return []


@pytest.mark.parametrize("module", [TwoLayers(), HalfAllocatable()])
def test_a_module_that_is_not_allocatable_is_refused(module: LightningModule) -> None:
    assert not isinstance(module, Allocatable)
    with pytest.raises(TypeError, match=f"directions, members, example_gradients and assign; {type(module).__name__}"):
        fit(module, [draw_batch(0)], ConflictAllocation())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": "cosine"}, "score: expected raw, centred or members, found 'cosine'"),
        ({"capacity": 0}, "found 0 and 8"),
        ({"max_subspaces": 0}, "found 1000 and 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConflictAllocation(**settings)
