"""The whitening against its materialised matrix and a full eigen-decomposition, and the seeded basis."""

import pytest
import torch
from torch import Tensor

from case_lightning.method.basis import RIDGE, Whitening, build_basis, draw_basis, measure_whitening, whiten
from tests.method.naive import draw

SHAPES = {"more tokens than features": (90, 12), "as many": (20, 20), "fewer": (15, 40)}
over_shapes = pytest.mark.parametrize(("tokens", "d_in"), SHAPES.values(), ids=SHAPES)


def draw_inputs(tokens: int, d_in: int, seed: int = 0) -> Tensor:
    """Features of different size, and three directions in which all inputs are large."""
    own, loads, directions = draw(seed, (tokens, d_in), (tokens, 3), (3, d_in))
    return own * torch.logspace(-0.5, 0.5, d_in) + loads * torch.tensor([9.0, 6.0, 3.0]) @ directions


def scale_features(x: Tensor) -> Tensor:
    """`1 / √(E[x_j²] + ρ)` feature by feature, in float64."""
    energy = [sum(value**2 for value in column) / len(x) for column in x.T.double().tolist()]
    ridge = RIDGE * sum(energy) / len(energy)
    return torch.tensor([(one + ridge) ** -0.5 for one in energy], dtype=torch.float64)


def decompose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the second moment in falling order, and eigenvectors as rows, in float64."""
    x = x.double()
    values, vectors = torch.linalg.eigh(sum(torch.outer(row, row) for row in x) / len(x))
    return values.flip(0), vectors.flip(1).T


def whitening_matrix(x: Tensor, k: int, size: float) -> Tensor:
    """`W`, `(d_in, d_in)`, from the definition."""
    scales = scale_features(x)
    values, vectors = decompose(x.double() * scales)
    cut = torch.eye(x.shape[1], dtype=torch.float64)
    for value, vector in zip(values[:k], vectors[:k], strict=True):
        cut += ((values[k] / value) ** 0.5 - 1) * torch.outer(vector, vector)
    matrix = cut @ torch.diag(scales)
    features = torch.stack([matrix @ row for row in x.double()])
    return matrix * size / features.square().mean().sqrt()


def materialise(whitening: Whitening) -> Tensor:
    """What `whiten` does to each unit vector, `(d_in, d_in)`."""
    return whiten(torch.eye(len(whitening.scales)), whitening).T


@over_shapes
@pytest.mark.parametrize(("k", "size"), [(0, 1.0), (1, 0.3), (5, 20.0), (11, 1.0)])
def test_whitening_is_its_materialised_matrix(tokens: int, d_in: int, k: int, size: float) -> None:
    x = draw_inputs(tokens, d_in)
    whitening = measure_whitening(x, k, size)
    expected = whitening_matrix(x, k, size).float()
    torch.testing.assert_close(materialise(whitening), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    features = whiten(x, whitening)
    torch.testing.assert_close(features, x @ expected.T, rtol=1e-3, atol=1e-3 * size)
    assert features.square().mean().sqrt().item() == pytest.approx(size, rel=1e-4)
    torch.testing.assert_close(whiten(x.view(5, -1, d_in), whitening), features.view(5, -1, d_in))


@over_shapes
def test_the_largest_directions_are_cut_to_the_next(tokens: int, d_in: int) -> None:
    x, k = draw_inputs(tokens, d_in), 4
    whitening = measure_whitening(x, k)
    torch.testing.assert_close(whitening.directions @ whitening.directions.T, torch.eye(k), rtol=0, atol=1e-4)
    assert (whitening.shrinks <= 0).all()
    assert (whitening.shrinks > -1).all()
    unscaled = measure_whitening(x, 0)  # the same `D`, but for its size
    before, after = (decompose(whiten(x, one))[0] for one in (unscaled, whitening))
    before, after = before / before[k], after / after[0]
    assert before[0] > 2
    expected = torch.cat([torch.ones(k + 1, dtype=torch.float64), before[k + 1 :]])
    torch.testing.assert_close(after, expected, rtol=1e-2, atol=1e-4)


def test_both_ways_to_the_eigenvectors_lead_to_one_whitening() -> None:
    """Repeating all inputs changes no moment, but makes them more than the features."""
    x = draw_inputs(15, 40)
    few, many = measure_whitening(x, 5), measure_whitening(x.repeat(3, 1), 5)
    torch.testing.assert_close(materialise(few), materialise(many), rtol=1e-3, atol=1e-4)


def test_neurons_that_hardly_wake_are_not_blown_up() -> None:
    (x,) = draw(0, (50, 10))
    x[:, 3] *= 1e-6
    x[:, 4] = 0
    scales = measure_whitening(x, 2).scales
    assert scales.isfinite().all()
    assert scales[3:5].max() < 5 * scales[:3].min()


def test_half_precision_inputs_are_whitened_in_float32() -> None:
    x = draw_inputs(60, 12).half() * 100  # squares are beyond half precision
    found, expected = measure_whitening(x, 3), measure_whitening(x.float(), 3)
    assert found.scales.dtype == found.directions.dtype == torch.float32
    assert torch.equal(found.scales, expected.scales)


@pytest.mark.parametrize(
    ("tokens", "d_in", "k"), [(4, 10, 4), (10, 4, 4), (0, 4, 0), (4, 10, 9)], ids=lambda size: str(size)
)
def test_too_few_inputs(tokens: int, d_in: int, k: int) -> None:
    message = f"whitening {k} directions needs more than that.*found {tokens} inputs of {d_in} features; give more text"
    with pytest.raises(ValueError, match=message):
        measure_whitening(torch.ones(tokens, d_in), k)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite(value: float) -> None:
    x = draw_inputs(20, 6)
    x[7, 2] = value
    with pytest.raises(ValueError, match="finite inputs"):
        measure_whitening(x, 2)


@pytest.mark.parametrize(("rank", "d_in"), [(1, 1), (1, 9), (4, 9), (9, 9)])
def test_rows_are_orthonormal(rank: int, d_in: int) -> None:
    rows = draw_basis(rank, d_in, seed=0)
    assert rows.shape == (rank, d_in)
    torch.testing.assert_close(rows @ rows.T, torch.eye(rank), rtol=0, atol=1e-5)


def test_rows_are_those_of_gram_and_schmidt() -> None:
    """What makes the factorisation unique: each row leans towards the draw that it was made from."""
    draws = torch.randn(9, 4, generator=torch.Generator().manual_seed(6)).T.double()
    expected: list[Tensor] = []
    for one in draws:
        rest = one - sum((torch.dot(one, row) * row for row in expected), torch.zeros(9))
        expected.append(rest / rest.norm())
    torch.testing.assert_close(draw_basis(4, 9, seed=6), torch.stack(expected).float(), rtol=1e-4, atol=1e-5)


def test_more_rows_than_features_keep_the_size_of_an_input() -> None:
    rows = draw_basis(400, 5, seed=0)
    assert rows.shape == (400, 5)
    torch.testing.assert_close(rows.T @ rows / 400, torch.eye(5) / 5, rtol=0, atol=0.05)


@pytest.mark.parametrize(("rank", "d_in"), [(3, 8), (8, 3)])
def test_each_seed_has_a_basis_of_its_own(rank: int, d_in: int) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, again, other = (draw_basis(rank, d_in, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("rank", [2, 12, 20])
def test_the_basis_reads_whitened_inputs(rank: int) -> None:
    x = draw_inputs(50, 12)
    whitening = measure_whitening(x, 4, size=3.0)
    basis = build_basis(rank, whitening, seed=8)
    assert basis.shape == (rank, 12)
    torch.testing.assert_close(basis, draw_basis(rank, 12, seed=8) @ materialise(whitening), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x @ basis.T, whiten(x, whitening) @ draw_basis(rank, 12, seed=8).T, rtol=1e-3, atol=1e-4)
