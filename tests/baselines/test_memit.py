"""MEMIT's closed form against what it minimises, and what its statistics and lookups say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from case_lightning.base import Base
from case_lightning.base.partial import PIECE, read_projection
from case_lightning.baselines import MEMIT, MEMITSettings
from case_lightning.baselines.fact_lookup import look_up
from case_lightning.baselines.key_statistics import add_ridge, read_text, second_moments
from case_lightning.baselines.locate_then_edit import choose_layers, mean_key
from case_lightning.baselines.memit import least_squares_update
from case_lightning.baselines.target_values import SearchSettings, ValueSearch, kl_divergence, shorten
from case_lightning.data import Edit
from case_lightning.errors import ConfigError
from tests.editing.tiny_run import make_edits

D_IN, D_OUT, N = 7, 5, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_known() -> Tensor:
    general = draw(D_IN, 50, seed=3)
    return general @ general.T


def objective(update: Tensor, keys: Tensor, residuals: Tensor, known: Tensor) -> float:
    """`‖Δ K − R‖² + tr(Δ C Δᵀ)`."""
    return float(((update @ keys - residuals) ** 2).sum() + (update @ known @ update.T).trace())


def test_the_update_is_the_minimum() -> None:
    keys, residuals, known = draw(D_IN, N), draw(D_OUT, N, seed=1), make_known()
    update = least_squares_update(keys, residuals, known)
    expected = residuals.numpy() @ keys.numpy().T @ np.linalg.inv(known.numpy() + keys.numpy() @ keys.numpy().T)
    np.testing.assert_allclose(update.numpy(), expected, rtol=1e-9, atol=1e-12)
    least = objective(update, keys, residuals, known)
    for seed in range(5):
        assert objective(update + 1e-3 * draw(D_OUT, D_IN, seed=seed), keys, residuals, known) > least


def test_the_less_the_known_weighs_the_more_is_written() -> None:
    keys, residuals, known = draw(D_IN, N), draw(D_OUT, N, seed=1), make_known()
    missing = [
        float((least_squares_update(keys, residuals, weight * known) @ keys - residuals).norm())
        for weight in (10.0, 1.0, 1e-9)
    ]
    assert missing[0] > missing[1] > missing[2]
    assert missing[2] < 1e-6


def test_a_ridge_adds_the_same_to_every_direction() -> None:
    moment = make_known()
    shift = torch.linalg.eigvalsh(add_ridge(moment, 0.1)) - torch.linalg.eigvalsh(moment)
    torch.testing.assert_close(shift, torch.full((D_IN,), 0.1 * float(moment.trace()) / D_IN, dtype=torch.float64))


def test_each_moment_is_the_mean_over_all_keys(base: Base) -> None:
    projections = [base.model.get_submodule(name) for name in base.architecture.down_projections[:2]]
    tokens = read_text(base.tokenizer)[: 19 * PIECE + 5]
    moments = second_moments(base.model, projections, tokens)
    for projection, moment in zip(projections, moments, strict=True):
        keys = read_projection(base.model, projection, tokens)[0].double()
        assert len(keys) == 19 * (PIECE - 1)
        torch.testing.assert_close(moment, keys.T @ keys / len(keys), rtol=1e-5, atol=1e-6)


def test_the_plain_prompt_weighs_as_much_as_all_prefixed_ones() -> None:
    keys = draw(4, 2, D_IN)
    torch.testing.assert_close(mean_key(keys), 0.5 * keys[0] + (keys[1] + keys[2] + keys[3]) / 6)
    assert torch.equal(mean_key(keys[:1]), keys[0])


def test_values_do_not_depend_on_how_many_texts_run_together(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("case_lightning.baselines.target_values.choose_dtype", lambda _, model: model.dtype)
    search = ValueSearch(base, 0, ["", "The game was. "], SearchSettings(steps=3))
    together = search(make_edits(3))
    monkeypatch.setattr("case_lightning.baselines.target_values.ROWS_AT_ONCE", 1)
    torch.testing.assert_close(search(make_edits(3)), together, rtol=1e-3, atol=1e-4)


def test_vectors_are_shortened_to_their_bound() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(shorten(vectors, torch.ones(3)), expected)


def test_divergence_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prefix", ["", "The game was. "])
def test_a_fact_is_looked_up_at_its_subject_or_at_the_end(base: Base, prefix: str) -> None:
    edit = make_edits(1)[0]
    tokenizer = base.tokenizer
    found = look_up(tokenizer, edit, prefix)
    assert tokenizer.decode(found.encoded.tokens[found.position]) == edit.subject
    for subject in (None, "Atlantis"):
        without = look_up(tokenizer, Edit(edit.id, edit.prompt, edit.target, subject), prefix)
        assert without.position == without.encoded.n_prompt - 1


@pytest.mark.parametrize("layers", [(), (1, 0), (0, 0), (0, 2)], ids=str)
def test_layers_are_in_order_with_one_above(base: Base, layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="layers: expected some of"):
        choose_layers(base, layers)


def test_a_model_of_one_layer_has_none_to_write_into(base: Base) -> None:
    alone = replace(base, architecture=replace(base.architecture, layers=base.architecture.layers[:1]))
    with pytest.raises(ConfigError, match="layers: the base model has one alone"):
        choose_layers(alone, None)


def test_a_text_that_cannot_be_read_is_named(base: Base, tmp_path: Path) -> None:
    settings = MEMITSettings(layers=(0,), text=str(tmp_path / "missing.txt"))
    with pytest.raises(ConfigError, match=r"missing\.txt cannot be read"):
        MEMIT(base, settings=settings).edit(make_edits(2))
