"""The projection against the least-squares problem that it solves, and what it spares."""

import pytest
import torch

from case_lightning.method.protection import KeyMoment, turn_away

WIDTH, ROWS = 6, 4


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learn(*pieces: torch.Tensor) -> KeyMoment:
    moment = KeyMoment(WIDTH)
    for keys in pieces:
        moment.add(keys)
    return moment


def everything() -> torch.Tensor:
    return torch.ones(WIDTH, dtype=torch.bool)


@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_the_projected_change_solves_the_least_squares_problem(strength: float) -> None:
    pieces = [draw(3, WIDTH, seed=1), draw(2, WIDTH, seed=2)]
    keys, change = torch.cat(pieces), draw(ROWS, WIDTH)
    typical = sum(piece.square().sum() / WIDTH for piece in pieces) / len(pieces)
    weighted = keys * (strength / typical).sqrt()
    # min ‖D' − D‖² + ‖D' Kᵀ‖², one row of D' after the other
    rows, wanted = torch.cat([torch.eye(WIDTH), weighted]), torch.cat([change.T, torch.zeros(len(keys), ROWS)])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(change @ learn(*pieces).shield(strength, everything()), expected)


def test_a_change_stays_as_long_and_moves_past_answers_less() -> None:
    past, new, change = draw(2, WIDTH, seed=1), draw(2, WIDTH, seed=2), draw(ROWS, WIDTH)
    shield = learn(past).shield(1000.0, everything())
    turned = turn_away(change, shield)
    assert turned.norm() == pytest.approx(change.norm().item(), rel=1e-5)
    assert (turned @ past.T).norm() < 0.01 * (change @ past.T).norm()
    assert (turned @ new.T).norm() > 0.3 * (change @ new.T).norm()


def test_nothing_learned_and_no_strength_change_nothing() -> None:
    change, past = draw(ROWS, WIDTH), draw(3, WIDTH, seed=1)
    for shield in (KeyMoment(WIDTH).shield(1.0, everything()), learn(past).shield(0.0, everything())):
        torch.testing.assert_close(turn_away(change, shield), change)


def test_a_total_that_was_taken_stays_as_it_was() -> None:
    moment = learn(draw(2, WIDTH))
    taken, copy = moment.total, moment.total.clone()
    moment.add(draw(2, WIDTH, seed=1))
    assert torch.equal(taken, copy)


def test_how_many_were_learned_does_not_weaken_any() -> None:
    """Repeating all pieces doubles what past answers weigh, for the scale is that of one piece."""
    past = draw(3, WIDTH, seed=1)
    torch.testing.assert_close(learn(past, past).shield(1.0, everything()), learn(past).shield(2.0, everything()))


def test_columns_that_are_held_still_are_no_part_of_it() -> None:
    moving = torch.tensor([True, False, True, True, False, True])
    past = draw(3, WIDTH, seed=1)
    typical = past.square().sum() / WIDTH
    kept = past[:, moving]
    expected = torch.linalg.inv(torch.eye(4) + kept.T @ kept / typical)
    torch.testing.assert_close(learn(past).shield(1.0, moving), expected)


def test_a_change_of_nothing_stays_nothing() -> None:
    still = turn_away(torch.zeros(ROWS, WIDTH), learn(draw(3, WIDTH)).shield(1.0, everything()))
    assert not still.any()
