"""UltraEdit against its equations, restated position by position on a copy of the model."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from case_lightning.base import Base
from case_lightning.base.architecture import find_architecture
from case_lightning.baselines import UltraEdit, UltraEditSettings
from case_lightning.baselines.ultraedit import RunningMoments, read_features, ridge_update, wanted_values
from case_lightning.data import Edit
from case_lightning.editing.encoding import Encoded
from case_lightning.errors import ConfigError
from tests.base.tiny_models import FAMILIES, VOCAB, build_model
from tests.baselines.cases import ask
from tests.editing.tiny_run import make_edits

EDITS = make_edits(5)
SETTINGS = UltraEditSettings(
    modules=("model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"), learning_rate=0.02, ridge=0.5
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read_naively(base: Base, model: nn.Module, module: nn.Module, edit: Edit) -> list[tuple[np.ndarray, np.ndarray]]:
    """`h` and `g` of each token of one edit's target, from an unpadded pass of its own."""
    seen: dict[str, Tensor] = {}
    handle = module.register_forward_hook(
        lambda _, args, output: seen.update(input=args[0], output=output.requires_grad_())
    )
    question = ask(base, edit.prompt, edit.target)
    logits = model(input_ids=question.tokens[None]).logits[0]
    handle.remove()
    loss = functional.cross_entropy(logits[question.columns], question.labels, reduction="sum")
    gradient = torch.autograd.grad(loss, seen["output"])[0]
    return [
        (seen["input"][0, column].detach().double().numpy(), gradient[0, column].double().numpy())
        for column in question.columns
    ]


def edit_naively(base: Base, batches: list[list[Edit]]) -> dict[str, Tensor]:
    """The weights after some batches, with all past features kept and their moments taken anew."""
    model = copy.deepcopy(base.model)
    past: dict[str, list[np.ndarray]] = {name: [] for name in SETTINGS.modules}
    for batch in batches:
        updates = {}
        for name in SETTINGS.modules:
            module = model.get_submodule(name)
            pairs = [pair for edit in batch for pair in read_naively(base, model, module, edit)]
            past[name] += [np.concatenate(pair) for pair in pairs]
            mean, deviation = np.mean(past[name], axis=0), np.std(past[name], axis=0, ddof=1)
            d_in = len(pairs[0][0])
            left, right = np.eye(d_in) * SETTINGS.ridge, np.zeros((d_in, len(pairs[0][1])))
            for h, g in pairs:
                z = (np.concatenate([h, g]) - mean) / (deviation + np.finfo(np.float32).eps)
                left += np.outer(h, h)
                right += np.outer(h, -SETTINGS.learning_rate * (z[:d_in] ** 2).sum() * z[d_in:])
            updates[name] = np.linalg.inv(left) @ right
        for name, update in updates.items():
            model.get_submodule(name).weight.data += torch.tensor(update.T, dtype=torch.float32)
    return {name: model.get_submodule(name).weight.data for name in SETTINGS.modules}


def test_the_weights_are_those_of_the_equations(base: Base) -> None:
    batches = [EDITS[:2], EDITS[2:4], EDITS[4:]]
    method = UltraEdit(base, settings=SETTINGS)
    for batch in batches:
        method.edit(batch)
    for name, expected in edit_naively(base, batches).items():
        moved = (method.weights.edited[name] - base.model.get_submodule(name).weight).abs().max()
        assert moved > 0.01
        torch.testing.assert_close(method.weights.edited[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_padded_rows_are_those_of_each_row_alone(family: str) -> None:
    model = build_model(FAMILIES[family].config)
    architecture = find_architecture(model)
    modules = [model.get_submodule(name) for name in architecture.down_projections]
    tokens = torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(0))
    questions = [Encoded(tokens[0], 5), Encoded(tokens[1, :4], 1)]
    together = read_features(model, architecture, modules, questions)
    alone = [read_features(model, architecture, modules, [question]) for question in questions]
    for index, pair in enumerate(together):
        for part, found in enumerate(pair):
            assert found.abs().max() > 0
            expected = torch.cat([one[index][part] for one in alone])
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    features, nothing = draw(9, 4), torch.zeros(4, dtype=torch.float64)
    moments = RunningMoments(0, nothing, nothing)
    for part in features.split([1, 5, 3]):
        moments = moments.update(part)
    torch.testing.assert_close(moments.mean, features.mean(0))
    torch.testing.assert_close(moments.squares, features.var(0) * 8)
    normalized = moments.normalize(features)
    torch.testing.assert_close(normalized.mean(0), nothing)
    torch.testing.assert_close(normalized.std(0), torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 12])
def test_the_update_is_the_minimum(rows: int) -> None:
    inputs, values, ridge = draw(rows, 7), draw(rows, 5, seed=1), 0.3

    def objective(update: Tensor) -> float:
        return float(((inputs @ update.T - values) ** 2).sum() + ridge * (update**2).sum())

    update = ridge_update(inputs, values, ridge)
    least = objective(update)
    assert all(objective(update + 1e-3 * draw(5, 7, seed=seed)) > least for seed in range(5))
    expected = torch.linalg.solve(inputs.T @ inputs + ridge * torch.eye(7).double(), inputs.T @ values).T
    torch.testing.assert_close(update, expected)


def test_a_value_is_a_step_down_the_gradient() -> None:
    values = wanted_values(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, -2.0, 0.0]]), learning_rate=0.1)
    torch.testing.assert_close(values, torch.tensor([[-2.5, 5.0, 0.0]]))


def test_what_is_kept_does_not_grow_and_no_subject_is_asked_for(base: Base) -> None:
    method, other = UltraEdit(base, settings=SETTINGS), UltraEdit(base, settings=SETTINGS)
    method.edit(EDITS[:3])
    kept = {name: value.shape for name, value in method.state().items()}
    method.edit(EDITS[3:])
    assert {name: value.shape for name, value in method.state().items()} == kept
    for batch in (EDITS[:3], EDITS[3:]):
        other.edit([replace(edit, subject=None) for edit in batch])
    assert all(torch.equal(value, method.state()[name]) for name, value in other.state().items())


def test_a_loaded_method_goes_on_with_the_statistics(base: Base) -> None:
    method, other = UltraEdit(base, settings=SETTINGS), UltraEdit(base, settings=SETTINGS)
    method.edit(EDITS[:3])
    other.load_state(method.state())
    for one in (method, other):
        one.edit(EDITS[3:])
    assert all(torch.equal(value, method.state()[name]) for name, value in other.state().items())


@pytest.mark.parametrize("modules", [("model.layers.9.mlp.up_proj",), ("model.layers.0.mlp.up_proj",) * 2], ids=str)
def test_modules_that_there_are_not_are_named(base: Base, modules: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"modules: expected dotted names .* found 'model\.layers"):
        UltraEdit(base, settings=UltraEditSettings(modules=modules))
