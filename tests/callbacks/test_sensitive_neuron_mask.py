"""A masked neuron does not move by one bit, whatever the optimizer; the mask follows the naive Fisher information."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional

from case_lightning.callbacks import SensitiveNeuronMask
from case_lightning.method.sensitivity import keep_most_sensitive
from tests.callbacks.tiny_modules import (
    D_IN,
    HIDDEN,
    Optimizers,
    TwoLayers,
    copy_parameters,
    draw_batch,
    fit,
    fit_again,
    load,
    make_trainer,
    moved,
)

NEURONS = {"hidden.weight": 0, "hidden.bias": 0, "head.weight": 1}
BATCHES = [draw_batch(seed) for seed in range(4)]
keep_three = partial(keep_most_sensitive, count=3)


def carried_over(build: Optimizers, module: TwoLayers) -> Optimizers:
    """An optimizer with momentum from steps that it has made before the fit, on all neurons."""
    optimizer = build(list(module.parameters()))
    for batch in BATCHES:
        optimizer.zero_grad()
        nn.functional.mse_loss(module(batch[0]), batch[1]).backward()
        optimizer.step()
    return lambda _: optimizer


OPTIMIZERS: dict[str, Optimizers] = {
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adam-foreach": partial(torch.optim.Adam, lr=0.01, foreach=True),
    "adamw-decay": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.5),
    "sgd-momentum": partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
    "sgd-decay": partial(torch.optim.SGD, lr=0.01, weight_decay=0.5),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3),
}
SETTINGS: list[dict[str, Any]] = [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.01}, {"max_epochs": 2}]


def assert_only_unmasked_moved(mask: SensitiveNeuronMask, before: dict[str, Tensor], module: TwoLayers) -> None:
    after = copy_parameters(module)
    for name, dim in mask.neurons.items():
        by_neuron = moved(before[name], after[name]).movedim(dim, 0).reshape(len(mask.masks[name]), -1)
        assert not by_neuron[~mask.masks[name]].any()
        assert by_neuron[mask.masks[name]].all()
        assert 0 < mask.masks[name].sum() < len(by_neuron)
    assert moved(before["head.bias"], after["head.bias"]).all()  # one that no mask speaks of


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_masked_neuron_does_not_move_by_one_bit(name: str, settings: dict[str, Any]) -> None:
    module = TwoLayers()
    module.optimizer = OPTIMIZERS[name] if name == "lbfgs" else carried_over(OPTIMIZERS[name], module)
    before = copy_parameters(module)
    mask = SensitiveNeuronMask(NEURONS, rule=keep_three)
    fit(module, BATCHES, mask, **settings)
    assert_only_unmasked_moved(mask, before, module)


class SpoilGradients(Callback):
    """Before one step, all gradients are not finite."""

    def __init__(self, value: float, at_step: int = 1) -> None:
        self.value, self.at_step = value, at_step

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.at_step:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(self.value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("after_the_mask", [False, True])
def test_gradients_that_are_not_finite_leave_masked_neurons_alone(value: float, after_the_mask: bool) -> None:
    module = TwoLayers(OPTIMIZERS["adam"])
    before = copy_parameters(module)
    mask = SensitiveNeuronMask(NEURONS, rule=keep_three)
    callbacks = [mask, SpoilGradients(value)]
    fit(module, BATCHES, *(callbacks if after_the_mask else callbacks[::-1]))
    assert_only_unmasked_moved(mask, before, module)
    assert not module.hidden.weight.isfinite().all()


def test_a_parameter_without_a_gradient_is_tolerated() -> None:
    module = TwoLayers(OPTIMIZERS["adamw-decay"])
    mask = SensitiveNeuronMask({"idle": 0, "hidden.bias": 0})
    fit(module, BATCHES, mask)
    assert mask.masks["idle"].all()  # nothing says which of its neurons matter
    assert not moved(torch.ones(4), module.idle).any()


def test_a_frozen_parameter_is_tolerated() -> None:
    for names in (["hidden.bias"], ["hidden.bias", "hidden.weight"]):
        module = TwoLayers()
        module.hidden.bias.requires_grad_(False)
        before = copy_parameters(module)
        mask = SensitiveNeuronMask(dict.fromkeys(names, 0), rule=lambda found: found > 0)
        fit(module, BATCHES, mask)
        assert not mask.masks["hidden.bias"].any()
        assert not moved(before["hidden.bias"], module.hidden.bias).any()
        assert moved(before["hidden.weight"], module.hidden.weight).any()


class BatchAlone(TwoLayers):
    def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]  Lightning takes it
        return functional.mse_loss(self(batch[0]), batch[1])


def test_a_training_step_without_an_index_is_measured() -> None:
    mask, other = SensitiveNeuronMask(NEURONS), SensitiveNeuronMask(NEURONS)
    fit(BatchAlone(), BATCHES, mask)
    fit(TwoLayers(), BATCHES, other)
    assert all(torch.equal(mask.sensitivities[name], other.sensitivities[name]) for name in NEURONS)


class WatchGradients(Callback):
    """Placed after the mask: what the optimizer, and gradient clipping, will see."""

    def __init__(self, mask: SensitiveNeuronMask) -> None:
        self.mask = mask
        self.seen = 0

    def on_before_optimizer_step(self, trainer: Any, pl_module: TwoLayers, optimizer: Any) -> None:
        gradient = pl_module.hidden.weight.grad
        assert (gradient[~self.mask.masks["hidden.weight"]] == 0).all()
        assert (gradient[self.mask.masks["hidden.weight"]] != 0).any()
        self.seen += 1


def test_the_mask_multiplies_gradients_in_place() -> None:
    mask = SensitiveNeuronMask(NEURONS, rule=keep_three)
    watch = WatchGradients(mask)
    fit(TwoLayers(), BATCHES, mask, watch)
    assert watch.seen == len(BATCHES)


def only_input(feature: int) -> tuple[Tensor, Tensor]:
    inputs, targets = draw_batch(feature)
    return inputs * torch.eye(D_IN)[feature], targets


def test_masks_are_drawn_at_the_first_batch_of_each_fit() -> None:
    """Only columns of `hidden.weight` whose input is not zero have a gradient."""
    module = TwoLayers()
    mask = SensitiveNeuronMask({"hidden.weight": 1})
    trainer = fit(module, [only_input(2), only_input(4)], mask)
    assert mask.masks["hidden.weight"].nonzero().flatten().tolist() == [2]
    before = copy_parameters(module)
    fit_again(trainer, module, [only_input(5), only_input(2)])
    assert mask.masks["hidden.weight"].nonzero().flatten().tolist() == [5]
    changed = moved(before["hidden.weight"], module.hidden.weight).any(0)
    assert changed.nonzero().flatten().tolist() == [5]


class AnyBatch(TwoLayers):
    """Takes its batch in any of the forms below, and answers with a dict where it was given one."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if isinstance(batch, Tensor):
            inputs, targets = batch.split([D_IN, batch.shape[1] - D_IN], dim=1)
        elif isinstance(batch, dict):
            inputs, targets = batch["inputs"]["of"], batch["targets"]
        else:
            inputs, targets = batch
        loss = super().training_step((inputs, targets), batch_idx)
        return {"loss": loss} if isinstance(batch, dict) else loss


class Pair(NamedTuple):
    inputs: Tensor
    targets: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda inputs, targets: torch.cat([inputs, targets], dim=1),
    "tuple": lambda inputs, targets: (inputs, targets),
    "named tuple": Pair,
    "list": lambda inputs, targets: [inputs, targets],
    "dict-in-dict": lambda inputs, targets: {"inputs": {"of": inputs}, "targets": targets},
}


def fisher_naively(module: TwoLayers, inputs: Tensor, targets: Tensor, name: str, dim: int) -> list[float]:
    fisher = [0.0] * module.get_parameter(name).shape[dim]
    for x, y in zip(inputs, targets, strict=True):
        module.zero_grad()
        (module(x) - y).square().mean().backward()
        gradient = module.get_parameter(name).grad
        for neuron in range(len(fisher)):
            fisher[neuron] += sum(value**2 for value in gradient.select(dim, neuron).flatten().tolist())
    module.zero_grad()
    return fisher


class RecordSensitivity(SensitiveNeuronMask):
    """Asserts inside the hook, where the module is in its fit."""

    def measure(self, pl_module: TwoLayers, batch: Any) -> dict[str, Tensor]:
        expected = {name: fisher_naively(pl_module, *BATCHES[0], name, dim) for name, dim in self.neurons.items()}
        found = super().measure(pl_module, batch)
        assert {name: value.tolist() for name, value in found.items()} == {
            name: pytest.approx(values, rel=1e-4) for name, values in expected.items()
        }
        assert all(parameter.grad is None for parameter in pl_module.parameters())
        self.measured = found
        return found


@pytest.mark.parametrize("form", FORMS)
def test_sensitivity_is_the_naive_per_example_fisher(form: str) -> None:
    mask = RecordSensitivity(NEURONS)
    fit(AnyBatch(), [FORMS[form](*BATCHES[0])], mask)
    for name, found in mask.measured.items():
        assert mask.masks[name].tolist() == keep_most_sensitive(found).tolist()


def test_measuring_leaves_the_logged_losses_alone() -> None:
    keep_all = SensitiveNeuronMask(NEURONS, rule=lambda found: torch.ones_like(found, dtype=torch.bool))
    masked, plain = fit(TwoLayers(), BATCHES, keep_all), fit(TwoLayers(), BATCHES)
    assert masked.callback_metrics == plain.callback_metrics
    assert masked.callback_metrics.keys() == {"loss", "loss_step", "loss_epoch"}


def test_sensitivities_are_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for a second process in which only the last neuron is sensitive."""
    mask = SensitiveNeuronMask({"hidden.bias": 0}, rule=partial(keep_most_sensitive, count=1))
    trainer = make_trainer(mask)
    reduced = []

    def reduce(found: Tensor, reduce_op: str) -> Tensor:
        if found.dim() == 0:
            return found  # Lightning's own
        reduced.append(reduce_op)
        return found + 1e6 * torch.eye(HIDDEN)[-1]

    monkeypatch.setattr(trainer.strategy, "reduce", reduce)
    trainer.fit(TwoLayers(), load(BATCHES))
    assert reduced == ["sum"]
    assert mask.masks["hidden.bias"].nonzero().flatten().tolist() == [HIDDEN - 1]


@pytest.mark.parametrize("neurons", [None, {}, {"hidden.wieght": 0, "hidden.bias": 0}])
def test_names_that_are_no_parameters_are_refused(neurons: dict[str, int] | None) -> None:
    with pytest.raises(ValueError, match=r"expected neurons to name parameters of TwoLayers.*it has .*hidden.weight"):
        fit(TwoLayers(), BATCHES, SensitiveNeuronMask(neurons))


class TakesAnything(TwoLayers):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None


@pytest.mark.parametrize("batch", [{"inputs": BATCHES[0][0], "names": ["a", "b"]}, [BATCHES[0][0], 3]])
def test_a_batch_that_cannot_be_taken_apart_is_refused(batch: Any) -> None:
    with pytest.raises(TypeError, match=r"found (str|int); override SensitiveNeuronMask.measure"):
        fit(TakesAnything(), [batch], SensitiveNeuronMask(NEURONS))


def test_an_example_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="no loss for an example"):
        fit(TakesAnything(), BATCHES, SensitiveNeuronMask(NEURONS))


class Normalized(TwoLayers):
    """With a layer whose training mode needs more than one example."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(HIDDEN)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(self.hidden(inputs)).tanh())


def test_measuring_leaves_running_statistics_alone() -> None:
    module = Normalized()
    fit(module, BATCHES, SensitiveNeuronMask(NEURONS))
    assert module.norm.num_batches_tracked == len(BATCHES)
    assert module.norm.training


def test_a_module_that_optimizes_by_itself_is_refused() -> None:
    module = TwoLayers()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"TwoLayers optimizes by itself .*; override SensitiveNeuronMask.measure"):
        fit(module, BATCHES, SensitiveNeuronMask(NEURONS))
