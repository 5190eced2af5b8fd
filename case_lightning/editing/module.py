"""The tiny LightningModule of which every edit batch is one fit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from typing_extensions import override

from case_lightning.base.grouping import choose_overhead
from case_lightning.base.suffix import Suffix
from case_lightning.editing.batches import EditBatch, PreparedEdit, collate
from case_lightning.editing.loss import label_loss
from case_lightning.method.allocation import Allocation
from case_lightning.method.conflict import OuterSum
from case_lightning.subspace import UNEDITED, CaseLayer

ASSESS_ROWS = 16  # edits assessed in one backward pass


def run_suffix(suffix: Suffix, *batches: EditBatch) -> Tensor:
    """Logits at every labelled position of some batches, each row through its route, `(labels, vocabulary)`."""
    edited, others = cast(CaseLayer, suffix.edited), []
    for batch in batches[:-1]:
        edited.routes, edited.starts = batch.routes, batch.starts
        others.append(suffix.run_to_head(batch.states, batch.rows, batch.columns, batch.past))
    last = batches[-1]
    edited.routes, edited.starts = last.routes, last.starts
    logits = suffix(last.states, last.rows, last.columns, others, last.past)
    edited.routes = edited.starts = None
    return logits


class EditModule(LightningModule):
    """Fits the subspaces of one batch of edits.

    Only the subspaces are registered; the frozen base model is held aside, so that a fit never moves, wraps, counts or
    checkpoints it.

    Args:
        suffix: Runs the frozen model from the edited layer on.
        learning_rate: Of Adam.
        weight_decay: Of AdamW; 0 is plain Adam.
    """

    def __init__(self, suffix: Suffix, learning_rate: float, weight_decay: float = 0.0) -> None:
        """Store the arguments; parameters come with each fit."""
        super().__init__()
        self._frozen = (suffix,)  # a tuple hides it from nn.Module's registration
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.new: list[PreparedEdit] = []
        self.counts: list[int] = []
        self.gradients: list[tuple[Tensor, Tensor]] = []  # δ and x of each new edit at the initial subspace
        self.losses: list[float] = []  # of each new edit without an update
        self.active = torch.nn.ModuleDict()
        self.n_steps: int | None = None  # over which the rate falls to 0

    @property
    def layer(self) -> CaseLayer:
        """The edited layer."""
        return cast(CaseLayer, self.suffix.edited)

    @property
    def suffix(self) -> Suffix:
        """What runs the frozen model."""
        return self._frozen[0]

    def prepare(self, edits: Sequence[PreparedEdit]) -> None:
        """Take the edits of the next fit and measure their gradients at the initial subspace."""
        self.new, self.n_steps = list(edits), None
        parts = [edits[start : start + ASSESS_ROWS] for start in range(0, len(edits), ASSESS_ROWS)]
        self.losses = []
        self.gradients = [pair for part in parts for pair in self._measure(part)]
        self.active = torch.nn.ModuleDict()

    def reopen(self, indices: Sequence[int], n_steps: int) -> None:
        """Train some subspaces, without new edits, at a rate that falls to 0 in so many steps: for a consolidation."""
        self.new, self.gradients, self.n_steps = [], [], n_steps
        self.active = torch.nn.ModuleDict()
        self._train(indices)

    def directions(self) -> list[OuterSum]:
        """The update direction of every subspace."""
        subspaces = self.layer.adapter.subspaces
        return [subspaces.direction(index) for index in range(len(subspaces))]

    def members(self) -> list[int]:
        """How many edits each subspace holds."""
        return list(self.counts)

    def count(self, subspaces: Sequence[int]) -> None:
        """Count an edit for each of some subspaces."""
        for index in subspaces:
            self.counts += [0] * (index + 1 - len(self.counts))
            self.counts[index] += 1

    def read_keys(self, edit: PreparedEdit) -> Tensor:
        """What its subspace reads of an edit, features `A x` at all positions that it acts on, `(keys, rank)`.

        Of every wording, each weighing as much as it is likely in a step: the squares sum to those of one wording.
        """
        texts = [(text, (len(edit.kinds) * len(kind)) ** -0.5) for kind in edit.kinds for text in kind]
        batch = collate([edit] * len(texts), [text for text, _ in texts])
        inputs = self.suffix.run_to_edited(batch.states, batch.rows, batch.columns, batch.past).float()
        starts = batch.starts.tolist()
        rows = [inputs[row, starts[row] : len(text.states)] * weight for row, (text, weight) in enumerate(texts)]
        return torch.cat(rows) @ self.layer.adapter.subspaces.basis(edit.subspace).float().T

    def example_gradients(self) -> list[OuterSum]:
        """The edit gradient of every new edit."""
        return [OuterSum.from_gradient(delta, x) for delta, x in self.gradients]

    def assign(self, allocations: list[Allocation]) -> None:
        """Open new subspaces, note where each new edit goes, and make those subspaces the trained parameters."""
        subspaces = self.layer.adapter.subspaces
        device = next(self.layer.base_layer.parameters()).device
        for index in (allocation.subspace for allocation in allocations):
            while index >= len(subspaces):
                subspaces.open(device)
        self.count([allocation.subspace for allocation in allocations])
        self.new = [replace(edit, subspace=a.subspace) for edit, a in zip(self.new, allocations, strict=True)]
        self._train(sorted({allocation.subspace for allocation in allocations}))

    @override
    def training_step(self, batch: EditBatch, batch_idx: int) -> Tensor:
        # DDP wants a gradient of each
        untouched = sum(parameter.sum() * 0 for parameter in self.active.parameters())
        loss: Tensor = self.weighted_loss(batch) * self.trainer.world_size + untouched
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def weighted_loss(self, batch: EditBatch) -> Tensor:
        """The weighted sum of a batch's losses; rows of like length run together, for chats are long beside prompts."""
        parts = batch.split(choose_overhead(self.suffix.dtype))
        return (self.nll(*parts) * torch.cat([part.weights for part in parts])).sum()

    def nll(self, *batches: EditBatch) -> Tensor:
        """Negative log-likelihood of every labelled token of some batches, `(labels,)` in float32."""
        return label_loss(run_suffix(self.suffix, *batches), torch.cat([batch.labels for batch in batches]))

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self.active.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        if self.n_steps is None:
            return optimizer
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=self.n_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def _train(self, indices: Sequence[int]) -> None:
        """Make some subspaces the trained parameters, and no other."""
        subspaces = self.layer.adapter.subspaces
        for index in indices:
            self.active[str(index)] = torch.nn.ParameterDict(subspaces.parameters_of(index))
        subspaces.requires_grad_(False)
        self.active.requires_grad_(True)

    def _measure(self, edits: Sequence[PreparedEdit]) -> list[tuple[Tensor, Tensor]]:
        """`δ` and `x` of each edit at no update, `(length, d_out)` and `(length, d_in)`, where it would act."""
        batch = collate(edits)
        batch.routes.fill_(UNEDITED)
        found: list[tuple[Tensor, Tensor]] = []

        def watch(_: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            leaf = output.detach().requires_grad_()
            found.append((args[0].detach(), leaf))
            return leaf

        handle = self.layer.register_forward_hook(watch)
        try:
            with torch.enable_grad():
                weighted = self.nll(batch) * batch.weights * len(edits)
                loss = weighted.sum()
        finally:
            handle.remove()
        each = weighted.new_zeros(len(edits)).index_add_(0, batch.rows, weighted.detach())
        self.losses += each.tolist()
        inputs, outputs = found[0]
        (delta,) = torch.autograd.grad(loss, outputs)
        shape = (len(edits), batch.states.shape[1], -1)
        delta, inputs = delta.reshape(shape).float(), inputs.reshape(shape).float()
        acting = [slice(start, len(edit.text.states)) for start, edit in zip(batch.starts.tolist(), edits, strict=True)]
        return [(delta[row, part], inputs[row, part]) for row, part in enumerate(acting)]

    @override
    def transfer_batch_to_device(self, batch: EditBatch, device: torch.device, dataloader_idx: int) -> EditBatch:
        return batch.to(device)
