"""Rows of like length run together, for what is padded costs as much as what is not."""

from collections.abc import Sequence

import torch

PASS, FLOAT32_PASS = 128, 64  # padded positions that cost as much as one pass more


def choose_overhead(dtype: torch.dtype) -> int:
    """What a pass costs beside its positions, in positions, where a model computes in a dtype."""
    return FLOAT32_PASS if dtype == torch.float32 else PASS


def group_rows(lengths: Sequence[int], overhead: int, most: int | None = None) -> list[list[int]]:
    """Rows in groups such that their padded positions and the number of passes cost least together.

    Args:
        lengths: Of each row.
        overhead: What a pass costs beside its positions, in positions.
        most: Padded positions of a group, unless it is a single row.

    Returns:
        The rows of each group, the shortest first; a group is padded to its last row.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    cost, cut = [0], [0]  # of the first so many rows, and where their last group begins
    for stop in range(1, len(order) + 1):
        length = lengths[order[stop - 1]]
        first = 0 if most is None else max(0, stop - max(1, most // max(1, length)))
        costs = [cost[start] + (stop - start) * length + overhead for start in range(first, stop)]
        cost.append(min(costs))
        cut.append(first + costs.index(cost[-1]))
    groups, stop = [], len(order)
    while stop:
        groups.append(order[cut[stop] : stop])
        stop = cut[stop]
    return groups[::-1]
