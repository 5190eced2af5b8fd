"""AlphaEdit's closed form against the equation and what it minimises, and what it leaves alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from case_lightning.base import Base
from case_lightning.baselines import AlphaEdit, AlphaEditSettings
from case_lightning.baselines.alphaedit import project_on_null_space, projected_update
from case_lightning.baselines.fact_lookup import look_up
from case_lightning.errors import ConfigError
from tests.baselines.cases import CASES
from tests.editing.tiny_run import make_edits

D_IN, D_OUT, N, RIDGE = 9, 5, 3, 0.2
EDITS = make_edits(4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_general() -> Tensor:
    """Keys of general text, that use four directions."""
    return draw(D_IN, 4, seed=3) @ draw(4, 50, seed=4)


def make_projection() -> Tensor:
    general = make_general()
    return project_on_null_space(general @ general.T / 50, threshold=1e-6)


def test_the_update_is_that_of_the_equation() -> None:
    keys, residuals, past, projection = draw(D_IN, N), draw(D_OUT, N, seed=1), draw(D_IN, 6, seed=2), make_projection()
    update = projected_update(keys, residuals, projection, past @ past.T, RIDGE)
    k, r, kp, p = (one.numpy() for one in (keys, residuals, past, projection))
    expected = r @ k.T @ p @ np.linalg.inv(kp @ kp.T @ p + k @ k.T @ p + RIDGE * np.eye(D_IN))
    np.testing.assert_allclose(update.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_update_is_the_minimum_over_the_null_space() -> None:
    keys, residuals, past, projection = draw(D_IN, N), draw(D_OUT, N, seed=1), draw(D_IN, 6, seed=2), make_projection()

    def objective(delta: Tensor) -> float:
        moved = delta @ projection
        terms = (moved @ keys - residuals, moved @ past, RIDGE**0.5 * moved)
        return float(sum((term**2).sum() for term in terms))

    update = projected_update(keys, residuals, projection, past @ past.T, RIDGE)
    torch.testing.assert_close(update @ projection, update)
    least = objective(update)
    assert all(objective(update + 1e-3 * draw(D_OUT, D_IN, seed=seed)) > least for seed in range(5))


def test_the_projection_drops_what_general_text_uses_and_nothing_else() -> None:
    general, projection = make_general(), make_projection()
    torch.testing.assert_close(projection @ projection, projection)
    torch.testing.assert_close(projection @ general, torch.zeros_like(general))
    assert projection.trace().item() == pytest.approx(D_IN - 4)


def test_general_text_is_left_alone_and_past_edits_almost() -> None:
    keys, residuals, past, projection = draw(D_IN, 1), draw(D_OUT, 1, seed=1), draw(D_IN, 2, seed=2), make_projection()
    update = projected_update(keys, residuals, projection, 1e4 * past @ past.T, ridge=1e-4)
    careless = projected_update(keys, residuals, projection, torch.zeros(D_IN, D_IN).double(), ridge=1e-4)
    for one in (update, careless):
        torch.testing.assert_close(one @ make_general(), torch.zeros(D_OUT, 50).double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(one @ keys, residuals, rtol=1e-3, atol=1e-3)
    assert (update @ past).norm() < 1e-3 < 0.1 < (careless @ past).norm()


def edit_two_batches(base: Base) -> AlphaEdit:
    method = AlphaEdit(base, settings=CASES["alphaedit"][1])
    method.edit(EDITS[:2])
    method.edit(EDITS[2:])
    return method


def test_the_weights_move_in_the_null_space_alone(base: Base) -> None:
    method = edit_two_batches(base)
    name = method.names[0]
    moved = (method.weights.edited[name] - base.model.get_submodule(name).weight).double()
    used = torch.eye(base.architecture.d_in).double() - method.projections[0]
    assert 0 < used.trace().item() < base.architecture.d_in - 1
    assert moved.norm() > 0.1
    assert (moved @ used).norm() < 1e-5 * moved.norm()


def test_all_keys_are_kept_as_one_sum(base: Base) -> None:
    method = edit_two_batches(base)
    expected = torch.zeros_like(method.past[0])
    for edit in EDITS:  # one at a time; no edit is below layer 0
        lookups = [look_up(base.tokenizer, edit, prefix) for prefix in method.search.prefixes]
        key = method.read(0, lookups, 1)[0][0]
        expected += torch.outer(key, key)
    torch.testing.assert_close(method.past[0], expected, rtol=1e-4, atol=1e-6)


def test_a_loaded_method_protects_the_past_edits(base: Base) -> None:
    method, other = (AlphaEdit(base, settings=CASES["alphaedit"][1]) for _ in range(2))
    method.edit(EDITS[:2])
    other.load_state(method.state())
    for one in (method, other):
        one.edit(EDITS[2:])
    assert all(torch.equal(value, method.state()[name]) for name, value in other.state().items())


def test_a_threshold_below_all_eigenvalues_is_an_error(base: Base) -> None:
    with pytest.raises(ConfigError, match=r"threshold: 0\.0 is below .* layer 0, .* raise it"):
        AlphaEdit(base, settings=AlphaEditSettings(layers=(0,), threshold=0.0)).edit(EDITS[:1])
