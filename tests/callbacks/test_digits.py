"""The callbacks on a continual-learning task that is not ours: `examples/digits.py`, small."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from case_lightning.callbacks import ActivationMemory, Allocatable, ConflictAllocation, SensitiveNeuronMask

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits.py"
EPOCHS = 5
SEED = 0
TASK_UNKNOWN, TASK_KNOWN = 0, 1
CAA = "CAA, centred score"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = spec_from_file_location("digits_example", EXAMPLE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def learn(digits, module, callbacks, laps=1):
    train, test = digits.load_tasks(SEED, laps)
    return digits.learn(module, callbacks, train, test, EPOCHS)


class Moves(Callback):
    """Notes for each fit which entries of each parameter it moved."""

    def __init__(self):
        self.moved = []

    def on_fit_start(self, trainer, pl_module):
        self.before = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}

    def on_train_end(self, trainer, pl_module):
        self.moved.append({name: (p != self.before[name]) for name, p in pl_module.named_parameters()})


class Masks(Callback):
    """Notes each fit's masks, which the next fit draws anew."""

    def __init__(self, mask):
        self.mask = mask
        self.found = []

    def on_train_end(self, trainer, pl_module):
        self.found.append(dict(self.mask.masks))


@pytest.fixture(scope="module")
def forgetting(digits):
    return {method: digits.run(method, SEED, EPOCHS)[1] for method in ("nothing", "adapters, one subspace", CAA)}


def test_each_task_comes_once_in_each_lap_and_test_images_are_never_trained_on(digits):
    train, test = digits.load_tasks(SEED, laps=2)
    assert [labels.unique().tolist() for _, labels in train] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]] * 2
    assert [len(labels) for _, labels in test] == [digits.TEST_IMAGES] * digits.TASKS
    images = torch.cat([images for images, _ in train + test])
    assert len(images.unique(dim=0)) == len(images) == 1797


def test_masked_neurons_do_not_move_during_a_task(digits):
    seed_everything(SEED, verbose=False)
    mask = SensitiveNeuronMask(digits.HIDDEN_LAYER)
    moves, masks = Moves(), Masks(mask)
    learn(digits, digits.TwoLayers(), [mask, moves, masks])
    assert len(moves.moved) == digits.TASKS
    for moved, found in zip(moves.moved, masks.found, strict=True):
        for name in digits.HIDDEN_LAYER:
            assert 0 < found[name].sum() < digits.HIDDEN
            assert not moved[name][~found[name]].any()
            assert moved[name][found[name]].any()


def test_a_task_moves_its_own_subspace_and_nothing_else(digits):
    seed_everything(SEED, verbose=False)
    module, moves = digits.Adapted(), Moves()
    assert isinstance(module, Allocatable)
    learn(digits, module, [ConflictAllocation("centred"), moves])
    for home, moved in zip(module.homes, moves.moved, strict=True):
        assert {name for name, entries in moved.items() if entries.any()} == {f"down.{home}", f"up.{home}"}


@pytest.mark.parametrize("score", ["raw", "centred"])
def test_a_task_that_comes_back_goes_to_the_subspace_that_learned_it(digits, score):
    seed_everything(SEED, verbose=False)
    module = digits.Adapted()
    learn(digits, module, [ConflictAllocation(score)], laps=2)
    assert module.homes[digits.TASKS :] == module.homes[: digits.TASKS]


def test_caa_opens_subspaces_and_forgets_no_more_than_one_subspace_does(digits, forgetting):
    seed_everything(SEED, verbose=False)
    module = digits.Adapted()
    learn(digits, module, [ConflictAllocation("centred")])
    assert 1 < len(set(module.homes)) <= digits.TASKS
    for unprotected in ("nothing", "adapters, one subspace"):
        assert forgetting[CAA][TASK_UNKNOWN] <= forgetting[unprotected][TASK_UNKNOWN] - 0.3
        assert forgetting[CAA][TASK_KNOWN] <= forgetting[unprotected][TASK_KNOWN] + 0.05


def test_activations_of_the_whole_network_hold_back_forgetting(digits, forgetting):
    _, (unknown, known) = digits.run("ActivationMemory, whole network", SEED, EPOCHS)
    assert unknown <= forgetting["nothing"][TASK_UNKNOWN] - 0.3
    assert known <= forgetting["nothing"][TASK_KNOWN] + 0.05


def test_the_memory_holds_rows_of_every_task(digits):
    seed_everything(SEED, verbose=False)
    memory = ActivationMemory("network", size=1000)
    learn(digits, digits.TwoLayers(), [memory])
    train, _ = digits.load_tasks(SEED)
    assert len(memory) == sum((len(labels) - 1) % 32 + 1 for _, labels in train)  # the last batch of every task


def test_every_method_of_the_table_runs(digits):
    for method in digits.METHODS:
        accuracy, forgotten = digits.run(method, SEED, epochs=1)
        assert accuracy.shape == forgotten.shape == (2,)
        assert 0 <= accuracy.min() <= accuracy.max() <= 1
        assert 0 <= forgotten.min() <= forgotten.max() <= 1
