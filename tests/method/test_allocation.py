"""Where an edit goes, case by case and against a naive restatement over every small case."""

from itertools import product
from typing import NamedTuple

import pytest

from case_lightning.method.allocation import Allocation, Decision, allocate


class Case(NamedTuple):
    name: str
    scores: list[float]
    members: list[int]
    expected: tuple[int, Decision]
    threshold: float = 0.0
    capacity: int = 10
    max_subspaces: int = 3


CASES = [
    Case("first", [], [], (0, "opened")),
    Case("first-although-the-bound-is-one", [], [], (0, "opened"), max_subspaces=1),
    Case("compatible", [0.4], [1], (0, "shared")),
    Case("most-compatible", [0.1, 0.7, 0.3], [1, 9, 1], (1, "shared")),
    Case("zero-is-compatible", [-0.2, 0.0], [1, 1], (1, "shared")),
    Case("first-of-equals", [0.5, 0.5], [3, 1], (0, "shared")),
    Case("all-conflict", [-0.2, -0.1], [1, 1], (2, "opened")),
    Case("all-conflict-at-the-bound", [-0.2, -0.1, -0.3], [1, 1, 1], (1, "forced")),
    Case("bound-of-one", [-1.0], [1], (0, "forced"), max_subspaces=1),
    Case("more-than-the-bound-already", [-0.2, -0.1, -0.3], [1, 1, 1], (1, "forced"), max_subspaces=2),
    Case("full-passed-over", [0.9, 0.2], [10, 1], (1, "shared")),
    Case("overfull-passed-over", [0.9, 0.2], [12, 1], (1, "shared")),
    Case("only-the-full-one-is-compatible", [0.9, -0.2], [10, 1], (2, "opened")),
    Case("only-the-full-one-is-compatible-at-the-bound", [0.9, -0.2, -0.1], [10, 1, 1], (2, "forced"), max_subspaces=2),
    Case("all-full", [0.9, 0.8], [10, 10], (2, "opened")),
    Case("all-full-beyond-the-bound", [-0.5, 0.9, 0.8], [10, 10, 10], (3, "opened")),
    Case("full-ones-do-not-count", [0.9, 0.8, -0.1, -0.2], [10, 10, 1, 1], (4, "opened")),
    Case("below-the-threshold", [0.04, 0.02], [1, 1], (2, "opened"), threshold=0.05),
    Case("at-the-threshold", [0.05], [1], (0, "shared"), threshold=0.05),
    Case("everything-in-one", [-1.0], [1], (0, "shared"), threshold=-1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_choice(case: Case) -> None:
    allocation = allocate(case.scores, case.members, case.threshold, case.capacity, case.max_subspaces)
    assert (allocation.subspace, allocation.decision) == case.expected
    assert allocation.scores == tuple(case.scores)


def choose_naively(
    scores: tuple[float, ...], members: tuple[int, ...], capacity: int, bound: int
) -> tuple[int, Decision]:
    compatible = [i for i in range(len(scores)) if scores[i] >= 0 and members[i] < capacity]
    roomy = [i for i in range(len(scores)) if members[i] < capacity]
    if compatible:
        return sorted(compatible, key=lambda i: (-scores[i], i))[0], "shared"
    if len(roomy) < bound:
        return len(scores), "opened"
    return sorted(roomy, key=lambda i: (-scores[i], i))[0], "forced"


@pytest.mark.parametrize("n_subspaces", [1, 2, 3])
def test_every_small_case_is_chosen_as_naively(n_subspaces: int) -> None:
    for scores in product((-0.5, -0.1, 0.0, 0.3), repeat=n_subspaces):
        for members in product((1, 2), repeat=n_subspaces):
            found = allocate(scores, members, threshold=0.0, capacity=2, max_subspaces=3)
            assert (found.subspace, found.decision) == choose_naively(scores, members, 2, 3)


@pytest.mark.parametrize(("subspace", "score"), [(0, -0.5), (1, 0.25), (2, None)])
def test_score_is_that_of_the_chosen_subspace(subspace: int, score: float | None) -> None:
    assert Allocation(subspace, "shared", (-0.5, 0.25)).score == score
