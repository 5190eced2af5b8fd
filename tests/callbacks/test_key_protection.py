"""What is protected, that past answers move less for it, and that it leaves alone what it is not told of."""

import io
from functools import partial

import pytest
import torch
from torch import Tensor

from case_lightning.callbacks import ActivationMemory, KeyProtection, SensitiveNeuronMask
from case_lightning.method.sensitivity import keep_most_sensitive
from tests.callbacks.tiny_modules import (
    D_IN,
    TwoLayers,
    copy_parameters,
    draw_batch,
    fit,
    fit_again,
    make_trainer,
    moved,
)

OLD, NEW = draw_batch(0, rows=3), draw_batch(1, rows=3)


def answers_moved(protection: KeyProtection) -> float:
    """How far the hidden layer's answers to the inputs of a first fit move in a second one."""
    module = TwoLayers()
    trainer = make_trainer(protection, max_epochs=0)
    fit_again(trainer, module, [OLD] * 3)
    with torch.no_grad():
        before = module.hidden.weight @ OLD[0].T
    fit_again(trainer, module, [NEW] * 10)
    return (module.hidden.weight.detach() @ OLD[0].T - before).norm().item()


def test_past_answers_move_less_the_stronger_it_is() -> None:
    unprotected, weak, strong = (answers_moved(KeyProtection(["hidden"], value)) for value in (0.0, 0.1, 1e4))
    assert strong < 0.05 * unprotected
    assert strong < weak < unprotected


def test_a_step_stays_as_long_as_the_optimizer_made_it() -> None:
    steps = []
    for strength in (0.0, 10.0):
        module, protection = TwoLayers(), KeyProtection(["hidden"], strength)
        trainer = fit(module, [OLD], protection)
        before = module.hidden.weight.detach().clone()
        fit_again(trainer, module, [NEW])
        steps.append((module.hidden.weight.detach() - before).norm())
    assert steps[0] > 0
    # the first fit is the same in both, so is the first step's length of the second
    torch.testing.assert_close(steps[1], steps[0])


def test_a_first_fit_is_as_without_it() -> None:
    alone, protected = TwoLayers(), TwoLayers()
    fit(alone, [OLD, NEW])
    fit(protected, [OLD, NEW], KeyProtection(["hidden", "head"], 100.0))
    for name, value in copy_parameters(alone).items():
        assert not moved(value, protected.get_parameter(name)).any()


def test_only_the_named_weights_are_touched() -> None:
    alone, protected = TwoLayers(), TwoLayers()
    trainers = make_trainer(max_epochs=0), make_trainer(KeyProtection(["hidden"], 100.0), max_epochs=0)
    for module, trainer in zip((alone, protected), trainers, strict=True):
        fit_again(trainer, module, [OLD])
        fit_again(trainer, module, [NEW])  # of one step, so that what is not protected still has the same gradient
    for name, value in copy_parameters(alone).items():
        assert moved(value, protected.get_parameter(name)).any() == (name == "hidden.weight")


def test_the_moment_is_that_of_the_inputs_of_a_fit() -> None:
    protection = KeyProtection(["hidden"])
    trainer = make_trainer(protection, max_epochs=0)
    module = TwoLayers()
    for batches in ([OLD, NEW], [OLD]):
        fit_again(trainer, module, batches)

    def square(inputs: Tensor) -> Tensor:
        return inputs.T @ inputs

    moment = protection.moments["hidden.weight"]
    torch.testing.assert_close(moment.total, (square(OLD[0]) + square(NEW[0])) / 2 + square(OLD[0]))
    assert moment.count == 2
    assert not module.hidden._forward_pre_hooks


def test_what_other_callbacks_run_is_no_part_of_it() -> None:
    alone, beside = KeyProtection(["hidden"]), KeyProtection(["hidden"])
    others = SensitiveNeuronMask({"hidden.weight": 1}), ActivationMemory("hidden")
    trainers = make_trainer(alone, max_epochs=0), make_trainer(*others, beside, max_epochs=0)
    for trainer in trainers:
        module = TwoLayers()
        for batch in (OLD, NEW):
            fit_again(trainer, module, [batch] * 2)
    torch.testing.assert_close(beside.moments["hidden.weight"].total, alone.moments["hidden.weight"].total)


def test_masked_columns_do_not_move_by_one_bit() -> None:
    mask = SensitiveNeuronMask({"hidden.weight": 1}, rule=partial(keep_most_sensitive, count=3))
    protection, module = KeyProtection(["hidden"], 10.0), TwoLayers()
    trainer = make_trainer(mask, protection, max_epochs=0)
    fit_again(trainer, module, [OLD])
    before = module.hidden.weight.detach().clone()
    fit_again(trainer, module, [NEW] * 3)
    columns = moved(before, module.hidden.weight).any(0)
    assert torch.equal(columns, mask.masks["hidden.weight"])
    assert columns.sum() == 3 < D_IN


def test_it_goes_on_from_what_it_remembered() -> None:
    first = KeyProtection(["hidden"], 10.0)
    fit(TwoLayers(), [OLD], first)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = KeyProtection(["hidden"], 10.0)
    second.load_state_dict(torch.load(file))
    modules = TwoLayers(seed=1), TwoLayers(seed=1)
    for protection, module in zip((first, second), modules, strict=True):
        fit(module, [NEW] * 3, protection)
    assert not moved(modules[0].hidden.weight.detach(), modules[1].hidden.weight).any()


@pytest.mark.parametrize("modules", [[], ["nowhere"], ["hidden", "nowhere"], [""]])
def test_what_is_no_linear_map_is_named(modules: list[str]) -> None:
    message = f"KeyProtection: {modules[-1]!r} is no linear map" if modules else "no module named"
    with pytest.raises(ValueError, match=message):
        fit(TwoLayers(), [OLD], KeyProtection(modules))


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(ValueError, match="strength: expected at least 0, found -1"):
        KeyProtection(["hidden"], -1)


def test_a_failed_fit_leaves_no_hook() -> None:
    class Failing(TwoLayers):
        def training_step(self, batch: object, batch_idx: int) -> Tensor:
            raise RuntimeError

    module = Failing()
    with pytest.raises(RuntimeError):
        fit(module, [OLD], KeyProtection(["hidden"]))
    assert not module.hidden._forward_pre_hooks


def test_a_module_that_optimizes_by_itself_is_refused() -> None:
    module = TwoLayers()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="KeyProtection: the training_step of TwoLayers optimizes by itself"):
        fit(module, [OLD], KeyProtection(["hidden"]))
