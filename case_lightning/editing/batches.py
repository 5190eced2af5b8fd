"""What one optimizer step sees: states, labelled positions and routes of some edits, padded into a batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities.types import _DEVICE
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset
from typing_extensions import override

from case_lightning.base.grouping import group_rows
from case_lightning.base.past import Past, pad_past
from case_lightning.editing.encoding import Encoded


@dataclass(frozen=True)
class PreparedText:
    """A prompt and its answer with the states that enter the edited layer.

    Attributes:
        encoded: Both as tokens.
        states: From the first position that an edit acts on where there is a past, else all; `(length, hidden)`.
        past: What comes before them.
    """

    encoded: Encoded
    states: Tensor
    past: Past | None = None

    @property
    def offset(self) -> int:
        """Position of the first state."""
        return len(self.encoded.tokens) - len(self.states)


@dataclass(frozen=True)
class PreparedEdit:
    """An edit, ready to be fitted.

    Attributes:
        text: Its own prompt.
        variants: Other wordings of the prompt.
        subspace: Index of its subspace; −1 until it is allocated.
        chats: The prompt as a turn of a chat, if it is fitted as one.
    """

    text: PreparedText
    variants: tuple[PreparedText, ...] = ()
    subspace: int = -1
    chats: tuple[PreparedText, ...] = ()

    @property
    def kinds(self) -> list[tuple[PreparedText, ...]]:
        """Its wordings by kind, each kind as likely in a step as another."""
        return [kind for kind in ((self.text,), self.variants, self.chats) if kind]


@dataclass(frozen=True)
class EditBatch:
    """Some edits as tensors.

    Attributes:
        states: What enters the edited layer, `(batch, seq, hidden)`, zero where padded.
        rows: Row of each labelled position, `(labels,)`.
        columns: Its column, `(labels,)`.
        labels: The token that shall follow it, `(labels,)`.
        weights: Share of each label in the loss, `(labels,)`; 1 in sum over all processes of one step.
        routes: Subspace of each row, `(batch,)`.
        starts: The column from which on each row is edited, `(batch,)`.
        past: What comes before the states.
    """

    states: Tensor
    rows: Tensor
    columns: Tensor
    labels: Tensor
    weights: Tensor
    routes: Tensor
    starts: Tensor
    past: Past | None = None

    def to(self, device: _DEVICE) -> "EditBatch":
        """The batch on another device."""
        parts: dict[str, Any] = {name: one if one is None else one.to(device) for name, one in vars(self).items()}
        return EditBatch(**parts)

    def split(self, overhead: int) -> list["EditBatch"]:
        """Its rows in groups of like length, so that what is padded and the number of passes cost least together.

        Args:
            overhead: What a pass costs beside its positions, in positions.
        """
        ends = self.columns.new_zeros(len(self.states)).scatter_reduce_(0, self.rows, self.columns + 1, "amax")
        groups = group_rows(ends.tolist(), overhead)
        if len(groups) == 1:
            return [self]
        return [self._take(torch.tensor(rows, device=ends.device), int(ends[rows[-1]])) for rows in groups]

    def _take(self, chosen: Tensor, width: int) -> "EditBatch":
        """Some of its rows, cut to a width."""
        place = torch.full_like(self.routes, -1)
        place[chosen] = torch.arange(len(chosen), device=place.device, dtype=place.dtype)
        rows = place[self.rows]
        kept = rows >= 0
        return EditBatch(
            states=self.states[chosen, :width],
            rows=rows[kept],
            columns=self.columns[kept],
            labels=self.labels[kept],
            weights=self.weights[kept],
            routes=self.routes[chosen],
            starts=self.starts[chosen],
            past=self.past and self.past.take(chosen),
        )


def collate(
    edits: Sequence[PreparedEdit],
    texts: Sequence[PreparedText] | None = None,
    total: int | None = None,
) -> EditBatch:
    """Pad edits into a batch in which each edit weighs the same, and each label of an edit.

    Args:
        edits: At least one.
        texts: A wording of each; by default its own.
        total: Over how many edits the loss is a mean, where other processes hold the rest.
    """
    texts = [edit.text for edit in edits] if texts is None else texts
    answers = [text.encoded for text in texts]
    device = texts[0].states.device
    counts = torch.tensor([len(answer.labels) for answer in answers])
    return EditBatch(
        states=pad_sequence([text.states for text in texts], batch_first=True),
        rows=torch.repeat_interleave(torch.arange(len(edits)), counts).to(device),
        columns=torch.cat([text.encoded.columns - text.offset for text in texts]).to(device),
        labels=torch.cat([answer.labels for answer in answers]).to(device),
        weights=torch.repeat_interleave(1 / (counts * (total or len(edits))), counts).to(device),
        routes=torch.tensor([edit.subspace for edit in edits], device=device),
        starts=torch.tensor([text.encoded.start - text.offset for text in texts], device=device),
        past=pad_past([text.past for text in texts if text.past]) if texts[0].past else None,
    )


class StepData(IterableDataset[EditBatch]):
    """The steps of one fit: all new edits, and at each step some past ones of the same subspaces.

    Every process draws the same past edits and takes its share of the rows, so a step means the same on any number of
    processes.

    Args:
        new: Gives the new edits; asked when the data is iterated, for allocation comes first.
        past: Edits of earlier fits.
        steps: Optimizer steps of the fit.
        n_rehearsed: Past edits beside the new ones of a step.
        seed: Seed of the draws.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        new: Callable[[], Sequence[PreparedEdit]],
        past: Sequence[PreparedEdit],
        steps: int,
        n_rehearsed: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Store the arguments."""
        self.new = new
        self.past = past
        self.steps = steps
        self.n_rehearsed = n_rehearsed
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Steps of the fit."""
        return self.steps

    @override
    def __iter__(self) -> Iterator[EditBatch]:
        new = list(self.new())
        active = {edit.subspace for edit in new}
        eligible = [edit for edit in self.past if edit.subspace in active]
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            order = torch.randperm(len(eligible), generator=generator)[: self.n_rehearsed].tolist()
            edits = new + [eligible[index] for index in order]
            draws = torch.rand(len(edits), generator=generator).tolist()
            texts = [choose_wording(edit, draw) for edit, draw in zip(edits, draws, strict=True)]
            yield share_rows(edits, texts, self.rank, self.world_size)


def share_rows(edits: Sequence[PreparedEdit], texts: Sequence[PreparedText], rank: int, world_size: int) -> EditBatch:
    """The rows of a step that one of several processes takes; over all of them their weights sum to 1."""
    mine = list(range(rank, len(edits), world_size))
    if not mine:  # more processes than rows: this one takes part with a row that weighs nothing
        batch = collate(edits[:1], texts[:1])
        batch.weights.zero_()
        return batch
    return collate([edits[i] for i in mine], [texts[i] for i in mine], len(edits))


def choose_wording(edit: PreparedEdit, draw: float) -> PreparedText:
    """An edit's own wording, one of its variants or its chat, each kind equally often; `draw` is from 0 to 1."""
    index, rest = divmod(draw * len(edit.kinds), 1)
    kind = edit.kinds[int(index)]
    return kind[int(rest * len(kind))]
