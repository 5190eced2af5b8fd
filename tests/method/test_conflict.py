"""The conflict score against dense matrices, its sign against what a step of descent does, the sketch's tolerance."""

import math

import pytest
import torch
from torch import Tensor, nn

from case_lightning.method.conflict import OuterSum, Sketch, cosine, cosine_centred, cosine_members
from tests.method.naive import dense, dense_cosine, draw, from_dense, random_sum

SIZES = [(1, 1, 3, 5), (4, 2, 3, 5), (2, 9, 8, 6), (0, 3, 4, 4), (30, 30, 2, 2)]  # terms of a, of b, d_out, d_in
SKETCHED = [(1, 0.3), (5, 0.15), (20, 0.1), (50, 0.08)]  # terms, root mean square error allowed, of ‖M‖ ‖N‖


def exact_sketch(d_out: int, d_in: int) -> Sketch:
    """One that loses nothing."""
    sketch = Sketch(d_out, d_in)
    sketch.rows, sketch.columns = torch.eye(d_out), torch.eye(d_in)
    return sketch


def common_and_own(seed: int, d_out: int, d_in: int, share: float) -> list[OuterSum]:
    """Three matrices with a large common part."""
    common = random_sum(seed, 2, d_out, d_in)
    return [OuterSum(common.left * share, common.right) + random_sum(seed + n, 3, d_out, d_in) for n in (1, 2, 3)]


@pytest.mark.parametrize(("terms_a", "terms_b", "d_out", "d_in"), SIZES)
def test_inner_products_are_those_of_the_dense_matrices(terms_a: int, terms_b: int, d_out: int, d_in: int) -> None:
    a, b = random_sum(1, terms_a, d_out, d_in), random_sum(2, terms_b, d_out, d_in)
    torch.testing.assert_close(a.inner(b), (dense(a) * dense(b)).sum(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a.norm(), dense(a).norm())
    torch.testing.assert_close(dense(a + b), dense(a) + dense(b))
    assert cosine(a, b).item() == pytest.approx(dense_cosine(dense(a), dense(b)), abs=1e-5)


def test_an_adapter_is_its_scaled_product() -> None:
    down, up = draw(0, (2, 5), (3, 2))
    torch.testing.assert_close(dense(OuterSum.from_adapter(down, up, scale=0.3)), 0.3 * up @ down)


def test_the_edit_gradient_is_minus_what_autograd_finds() -> None:
    x, y = draw(3, (7, 5), (7, 3))
    layer = nn.Linear(5, 3, bias=False)
    outputs = layer(x)
    loss = (outputs - y).square().mean()
    (delta,) = torch.autograd.grad(loss, [outputs], retain_graph=True)
    (weight_gradient,) = torch.autograd.grad(loss, [layer.weight])
    torch.testing.assert_close(dense(OuterSum.from_gradient(delta, x)), -weight_gradient)


def edit_gradient(weight: Tensor, x: Tensor, y: Tensor) -> OuterSum:
    outputs = (x @ weight.T).requires_grad_()
    (delta,) = torch.autograd.grad((outputs - y).square().sum(), [outputs])
    return OuterSum.from_gradient(delta, x)


def test_one_step_of_descent_moves_the_initial_subspace_along_the_edit_gradient() -> None:
    weight, x, y = draw(4, (3, 5), (2, 5), (2, 3))
    update = torch.zeros(3, 5, requires_grad=True)  # ΔW_0^0, as large as the adapter product that it stands for
    (x @ (weight + update).T - y).square().sum().backward()
    torch.optim.SGD([update], lr=1e-3).step()
    assert cosine(from_dense(update.detach()), edit_gradient(weight, x, y)).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("key", "target", "expected"),
    [
        ([1.0, 0.0], [0.0, 2.0], 1.0),  # asks for more of the same
        ([1.0, 0.0], [0.0, -1.0], -1.0),  # contradicts
        ([0.0, 1.0], [0.0, 1.0], 0.0),  # speaks of another thing
        ([1.0, 0.0], [1.0, 1.0], math.sqrt(0.5)),
        ([1.0, 0.0], [0.0, 0.0], 0.0),  # is known already: no gradient
    ],
)
def test_sign_of_the_score(key: list[float], target: list[float], expected: float) -> None:
    """A frozen weight of zero, and a subspace that has learned to answer (1, 0) with (0, 1)."""
    learned = OuterSum.from_adapter(down=torch.tensor([[1.0, 0.0]]), up=torch.tensor([[0.0], [1.0]]))
    gradient = edit_gradient(torch.zeros(2, 2), torch.tensor([key]), torch.tensor([target]))
    assert cosine(learned, gradient).item() == pytest.approx(expected)


@pytest.mark.parametrize(("target", "sign"), [(1.0, 1), (-1.0, -1)])
def test_sign_of_the_score_after_a_real_fit(target: float, sign: int) -> None:
    weight, x, y, down = draw(5, (3, 6), (2, 6), (2, 3), (2, 6))
    up = torch.zeros(3, 2)
    adapter = [down.requires_grad_(), up.requires_grad_()]
    optimizer = torch.optim.Adam(adapter, lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        (x @ (weight + up @ down).T - y).square().sum().backward()
        optimizer.step()
    learned = OuterSum.from_adapter(down.detach(), up.detach())
    unedited = x @ weight.T
    score = cosine(learned, edit_gradient(weight, x, unedited + target * (y - unedited))).item()
    assert math.copysign(1, score) == sign
    assert abs(score) > 0.3


def test_a_subspace_that_has_learned_nothing_scores_zero() -> None:
    initial = OuterSum.from_adapter(torch.ones(2, 4), torch.zeros(3, 2))
    gradient = random_sum(0, 2, 3, 4)
    assert cosine(initial, gradient) == 0
    assert cosine(gradient, initial) == 0
    assert cosine_centred(initial, gradient, torch.ones(3, 4), exact_sketch(3, 4)) == 0


@pytest.mark.parametrize(("terms", "tolerance"), SKETCHED)
def test_sketch_keeps_inner_products_within_tolerance(terms: int, tolerance: float) -> None:
    squares = []
    for seed in range(30):
        a, own = random_sum(1000 + seed, terms, 64, 128), random_sum(2000 + seed, terms, 64, 128)
        sketch = Sketch(64, 128, size=64, seed=seed)
        for b in (a, own, a + own):
            one, other = a.left.T @ a.right, b.left.T @ b.right
            error = (sketch(a) * sketch(b)).sum() - (one * other).sum()
            squares.append((error / (one.norm() * other.norm())).square())
    assert torch.stack(squares).mean().sqrt() < tolerance


def test_sketch_is_unbiased_and_no_wider_than_asked() -> None:
    a, b, _ = common_and_own(7, 12, 20, share=2.0)
    sketches = [Sketch(12, 20, size=8, seed=seed) for seed in range(600)]
    assert sketches[0](a).shape == (8, 8)
    mean = torch.stack([(sketch(a) * sketch(b)).sum() for sketch in sketches]).mean()
    assert mean.item() == pytest.approx(a.inner(b).item(), rel=0.15)


def test_sketches_of_one_seed_are_comparable() -> None:
    a, b, _ = common_and_own(7, 12, 20, share=2.0)
    torch.testing.assert_close(Sketch(12, 20)(a + b), Sketch(12, 20)(a) + Sketch(12, 20)(b))
    assert not torch.allclose(Sketch(12, 20, seed=1)(a), Sketch(12, 20)(a))


@pytest.mark.parametrize("seed", range(4))
def test_sketch_shares_no_random_numbers_with_a_seeded_adapter(seed: int) -> None:
    """Were it drawn from the stream of the adapter's `A`, rows of both would be equal and this three times too long."""
    down = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))
    learned = OuterSum.from_adapter(down, *draw(9, (32, 32)))
    assert Sketch(32, 64, size=16, seed=seed)(learned).norm() / learned.norm() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("share", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("sketched", [False, True])
def test_centred_score_is_that_of_the_dense_matrices(share: float, sketched: bool) -> None:
    direction, gradient, other = common_and_own(20, 16, 24, share)
    sketch = Sketch(16, 24, size=256) if sketched else exact_sketch(16, 24)
    mean = 0.5 * (sketch(other) + sketch(direction))
    expected = dense_cosine(dense(direction), dense(gradient) - 0.5 * (dense(other) + dense(direction)))
    score = cosine_centred(direction, gradient, mean, sketch).item()
    assert score == pytest.approx(expected, abs=0.15 if sketched else 1e-4)


def test_centring_brings_back_a_sign_that_a_common_part_hides() -> None:
    common, own = torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    learned, contradicting = from_dense(common + own), from_dense(common - own)
    sketch = exact_sketch(2, 2)
    assert cosine(learned, contradicting) > 0.5
    assert cosine_centred(learned, contradicting, sketch(from_dense(common)), sketch) < -0.3
    assert cosine_centred(learned, learned, sketch(from_dense(common)), sketch) > 0.3


def test_scores_stay_within_one() -> None:
    """Where rounding or the sketch would carry them beyond."""
    for seed in range(50):
        a = random_sum(seed, 3, 5, 7)
        assert cosine(a, a) <= 1
        assert (
            -1 <= cosine_centred(a, a, Sketch(5, 7, size=4)(random_sum(seed + 1, 3, 5, 7)), Sketch(5, 7, size=4)) <= 1
        )


@pytest.mark.parametrize("count", [1, 4])
def test_members_score_is_that_of_the_centred_dense_matrices(count: int) -> None:
    members = [random_sum(seed, 3, 6, 9) for seed in range(count)]
    gradient, sketch = random_sum(50, 4, 6, 9), exact_sketch(6, 9)
    means = [sketch(random_sum(seed, 2, 6, 9)) for seed in range(60, 61 + count)]
    held = sum((one.left.T @ one.right - mean for one, mean in zip(members, means, strict=False)), torch.zeros(6, 9))
    new = gradient.left.T @ gradient.right - means[-1]
    naive = (held * new).sum() / (held.norm() * new.norm())
    total = sum((sketch(one) - mean for one, mean in zip(members, means, strict=False)), torch.zeros(6, 9))
    torch.testing.assert_close(cosine_members(total, sketch(gradient), means[-1]), naive)


def test_members_score_separates_what_a_common_part_hides() -> None:
    common, fact = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * 3, torch.eye(6, 9)
    member = common + fact - common
    assert cosine_members(member, common + fact, common) == pytest.approx(1)
    assert cosine_members(member, common - fact, common) == pytest.approx(-1)
    assert cosine_members(torch.zeros(6, 9), common + fact, common) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_factors_of_any_precision_can_be_compared(dtype: torch.dtype) -> None:
    gradient, direction = (torch.randn(3, size, dtype=dtype) for size in (5, 4)), torch.randn(2, 4, dtype=dtype)
    found = OuterSum.from_gradient(*gradient)
    assert torch.promote_types(dtype, torch.float32) == found.left.dtype == found.right.dtype
    with torch.device("meta"):  # a default that the projection does not follow
        sketch = Sketch(5, 4)
    assert sketch(found).isfinite().all()
    assert sketch.rows.device.type == "cpu"
    assert OuterSum.from_adapter(direction, torch.randn(5, 2, dtype=dtype)).inner(found).isfinite()
