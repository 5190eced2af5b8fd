"""CAA as a callback: between fits, the examples of the coming one are given subspaces by their conflict scores."""

from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from case_lightning.method.allocation import Allocation, allocate
from case_lightning.method.conflict import OuterSum, Sketch, cosine, cosine_centred, cosine_members

Score = Literal["raw", "centred", "members"]

SKETCH_SIZE = 128


@runtime_checkable
class Allocatable(Protocol):
    """What a LightningModule must offer to have its subspaces allocated."""

    def directions(self) -> list[OuterSum]:
        """The update direction `E_i` of every subspace there is."""

    def members(self) -> list[int]:
        """How many examples each subspace holds."""

    def example_gradients(self) -> list[OuterSum]:
        """The gradient `G_t` of each example of the coming fit, at the initial subspace."""

    def assign(self, allocations: list[Allocation]) -> None:
        """Open the subspaces that the allocations speak of, and train each example in its own."""


class ConflictAllocation(Callback):
    """Gives each new example the subspace it conflicts least with, or a new one.

    Works on any LightningModule that is `Allocatable`. Runs in `setup`, so new subspaces are there before the optimizer
    is configured. Every process of a distributed run comes to the same allocation, for each assesses the whole batch.
    To go on with a stream, give it its state with `load_state_dict` before the fit: what `fit(ckpt_path=…)` restores,
    Lightning restores only after `setup`. A state that is taken while a fit runs holds that fit's examples already; to
    repeat the fit, start from the state before it.

    Args:
        score: `raw` for the published cosine; ours are `centred`, for few large pieces of knowledge, and `members`, for
            many small ones (see `case_lightning.method.conflict`).
        threshold: The least score that counts as compatible; 0 in the paper. `-1` keeps everything in one subspace,
            until that is full.
        capacity: How many examples a subspace should hold at most.
        max_subspaces: How many subspaces that are not full there may be; where all are full, one more is opened.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        score: Score = "centred",
        threshold: float = 0.0,
        capacity: int = 1000,
        max_subspaces: int = 8,
    ) -> None:
        """Check and store the arguments."""
        if score not in get_args(Score):
            raise ValueError(f"score: expected raw, centred or members, found {score!r}")
        if capacity < 1 or max_subspaces < 1:
            raise ValueError(f"capacity and max_subspaces: expected at least 1, found {capacity} and {max_subspaces}")
        self.score = score
        self.threshold = threshold
        self.capacity = capacity
        self.max_subspaces = max_subspaces
        self.mean: Tensor | None = None  # sketch of the mean gradient so far, (size, size)
        self.count = 0
        self.totals: list[Tensor] = []  # sketch of each subspace's members, summed less the mean, (size, size)
        self.allocations: list[Allocation] = []
        self._opened: set[int] = set()  # subspaces that are new in the coming fit
        self._made: Sketch | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.allocations = self.allocate(pl_module)

    def allocate(self, module: LightningModule) -> list[Allocation]:
        """Assess the coming examples in order, each also against those before it, and assign them."""
        if not isinstance(module, Allocatable):
            raise TypeError(
                f"ConflictAllocation needs a LightningModule with directions, members, example_gradients and assign; "
                f"{type(module).__name__} lacks some of them"
            )
        directions, members = module.directions(), module.members()
        self._opened = set()
        allocations = []
        for gradient in module.example_gradients():
            scores = [self.assess(index, direction, gradient) for index, direction in enumerate(directions)]
            allocations.append(allocate(scores, members, self.threshold, self.capacity, self.max_subspaces))
            self._enter(allocations[-1].subspace, gradient, directions, members)
            self._remember(allocations[-1].subspace, gradient)
        module.assign(allocations)
        return allocations

    def assess(self, index: int, direction: OuterSum, gradient: OuterSum) -> float:
        """The conflict score of one example and one subspace; override it to try another."""
        if self.score == "raw" or self.mean is None:
            return float(cosine(direction, gradient))
        sketch = self._sketch(gradient)
        if self.score == "members" and index < len(self.totals):
            return float(cosine_members(self.totals[index], sketch(gradient).cpu(), self.mean))
        return float(cosine_centred(direction, gradient, self.mean.to(gradient.left.device), sketch))

    def _enter(self, index: int, gradient: OuterSum, directions: list[OuterSum], members: list[int]) -> None:
        """Count an example as a member; a subspace that has learned nothing yet points where its members pull."""
        if index == len(directions):
            directions.append(gradient)
            members.append(0)
            self._opened.add(index)
        elif index in self._opened:
            directions[index] = directions[index] + gradient
        members[index] += 1

    def _remember(self, index: int, gradient: OuterSum) -> None:
        sketched = self._sketch(gradient)(gradient).cpu()
        while index >= len(self.totals):
            self.totals.append(torch.zeros_like(sketched))
        if not sketched.isfinite().all():  # the mean is kept for life: one overflow must not end it
            return
        self.count += 1
        mean = sketched if self.mean is None else self.mean  # the first example of all says nothing but the mean
        self.totals[index] = self.totals[index] + sketched - mean  # not in place: a saved state may hold the old one
        self.mean = mean + (sketched - mean) / self.count

    def _sketch(self, gradient: OuterSum) -> Sketch:
        if self._made is None:
            self._made = Sketch(gradient.left.shape[1], gradient.right.shape[1], SKETCH_SIZE)
        return self._made

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "count": self.count, "totals": list(self.totals)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        mean = state_dict["mean"]
        self.mean = None if mean is None else torch.as_tensor(mean)
        self.count = int(state_dict["count"])
        self.totals = [torch.as_tensor(total).clone() for total in state_dict["totals"]]
