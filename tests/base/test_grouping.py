from itertools import product

import pytest

from case_lightning.base.grouping import group_rows


def count_cost(lengths: list[int], groups: list[list[int]], overhead: int) -> int:
    return sum(len(rows) * max(lengths[row] for row in rows) + overhead for rows in groups)


@pytest.mark.parametrize("overhead", [0, 1, 5, 1000])
def test_groups_cost_least(overhead: int) -> None:
    lengths = [3, 9, 1, 4, 4, 8]
    found = group_rows(lengths, overhead)
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    assert [max(lengths[row] for row in rows) for rows in found] == [lengths[rows[-1]] for rows in found]
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    costs = []
    for cuts in product([False, True], repeat=len(lengths) - 1):
        groups = [[order[0]]]
        for row, cut in zip(order[1:], cuts, strict=True):
            groups = [*groups, [row]] if cut else [*groups[:-1], [*groups[-1], row]]
        costs.append(count_cost(lengths, groups, overhead))
    assert count_cost(lengths, found, overhead) == min(costs)


def test_groups_are_no_larger_than_they_may_be() -> None:
    lengths = [5] * 7 + [30]
    found = group_rows(lengths, 1000, most=20)
    assert [len(rows) for rows in found if len(rows) * lengths[rows[-1]] > 20] == [1]  # one that has no room anyway
    assert sorted(row for rows in found for row in rows) == list(range(8))
    assert group_rows([], 1) == []
