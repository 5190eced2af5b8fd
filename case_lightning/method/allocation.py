"""CAA: which subspace a new piece of knowledge goes to, given its conflict scores.

Published [1]: the most compatible subspace if any score is not negative, else a new one. Ours: the threshold as a
setting, a capacity for each subspace, and a bound on how many that are not full there are side by side: where all are
full one more is opened, so storage grows with the edits and not with their conflicts.

[1] doi:10.1145/3774904.3792427
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Decision = Literal["opened", "shared", "forced"]


@dataclass(frozen=True)
class Allocation:
    """Where one edit goes and why.

    Attributes:
        subspace: Index of its subspace.
        decision: `opened` a new one, `shared` a compatible one, or was `forced` into the least conflicting one that is
            not full, because no new one may be opened.
        scores: Conflict score against every subspace there was.
    """

    subspace: int
    decision: Decision
    scores: tuple[float, ...]

    @property
    def score(self) -> float | None:
        """The score against the chosen subspace; `None` where it was opened for this edit."""
        return self.scores[self.subspace] if self.subspace < len(self.scores) else None


def allocate(
    scores: Sequence[float], members: Sequence[int], threshold: float, capacity: int, max_subspaces: int
) -> Allocation:
    """Choose a subspace for one edit.

    Args:
        scores: Its conflict score against each subspace.
        members: How many edits each subspace holds.
        threshold: The least score that counts as compatible; the paper's is 0.
        capacity: How many edits a subspace should hold at most; full ones are passed over.
        max_subspaces: How many subspaces may have room at a time. Where as many have, an edit that conflicts with all
            of them goes to the highest-scoring one.
    """
    free = [i for i, count in enumerate(members) if count < capacity]
    best = max(free, key=lambda i: scores[i], default=None)
    if best is not None and scores[best] >= threshold:
        return Allocation(best, "shared", tuple(scores))
    if best is None or len(free) < max_subspaces:
        return Allocation(len(scores), "opened", tuple(scores))
    return Allocation(best, "forced", tuple(scores))
