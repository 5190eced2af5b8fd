"""The three callbacks in one fit after another, as the package composes them, on adapters that know none of them."""

from functools import partial
from itertools import permutations

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers.logger import DummyLogger

from case_lightning.callbacks import ActivationMemory, ConflictAllocation, MethodPlots, SensitiveNeuronMask
from case_lightning.method.sensitivity import keep_most_sensitive
from tests.callbacks.tiny_modules import (
    D_IN,
    Adapted,
    TwoLayers,
    copy_parameters,
    draw_batch,
    fit,
    fit_again,
    make_trainer,
    moved,
)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_two_fits_with_all_three(order: tuple[int, ...]) -> None:
    allocation = ConflictAllocation(max_subspaces=1)
    mask = SensitiveNeuronMask({"subspaces.0.down": 1}, rule=partial(keep_most_sensitive, count=2))
    memory = ActivationMemory("subspaces.0", weight=5.0)
    callbacks: list[Callback] = [allocation, mask, memory]
    module = Adapted(draw_batch(0))
    trainer = fit(module, [module.coming] * 20, *[callbacks[index] for index in order])
    before, kept = copy_parameters(module), len(memory)
    assert kept > 0

    module.coming = draw_batch(1)
    fit_again(trainer, module, [module.coming] * 20)

    columns = moved(before["subspaces.0.down"], module.subspaces[0].down).any(0)
    assert torch.equal(columns, mask.masks["subspaces.0.down"])  # the memory's gradient reaches all of them
    assert columns.sum() == 2 < D_IN
    assert moved(before["subspaces.0.up"], module.subspaces[0].up).all()
    assert len(memory) == 2 * kept
    assert [one.decision for one in allocation.allocations].count("opened") == 0
    assert module.counts == [10]
    assert allocation.count == 10


def test_what_they_did_is_gathered_over_fits() -> None:
    allocation = ConflictAllocation(max_subspaces=3)
    mask = SensitiveNeuronMask({"subspaces.0.down": 1}, rule=partial(keep_most_sensitive, count=2))
    plots = MethodPlots()
    module = Adapted(draw_batch(0))
    trainer = fit(module, [module.coming] * 3, allocation, mask, plots)
    made = list(allocation.allocations)
    module.coming = draw_batch(1)
    fit_again(trainer, module, [module.coming] * 3)
    made += allocation.allocations
    assert plots.n_examples == len(made) == 10
    used = [len({one.subspace for one in made[:end]}) for end in range(1, len(made) + 1)]
    assert plots.growth.compute().tolist() == [[end, count] for end, count in enumerate(used, 1)]
    scores = [one.scores for one in made if one.scores]
    found = [[score for score in row if score == score] for row in plots.conflict.compute().tolist()]
    assert [score for row in found for score in row] == pytest.approx([score for row in scores for score in row])
    assert plots.sensitivity.compute().sum(0).tolist() == [2 * D_IN, 2 * 2]


def test_without_an_allocation_what_is_logged_stands_at_optimizer_steps() -> None:
    class Steps(DummyLogger):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
            found.extend(step for name in metrics if name.startswith("method/"))

    found: list[int] = []
    mask = SensitiveNeuronMask({"hidden.weight": 0})
    trainer = make_trainer(mask, MethodPlots(), max_epochs=0)
    trainer.loggers = [Steps()]
    for _ in range(2):
        fit_again(trainer, TwoLayers(), [draw_batch(0)] * 3)
    assert set(found) == {3, 6}
