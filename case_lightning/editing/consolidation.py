"""Consolidation: past edits learned again together, from time to time.

A fit shows a few new edits many times, and what it does to the other edits of a subspace adds up from fit to fit. One
pass over all edits of the subspaces that changed takes most of that back, for a few rows an edit. The idea is that of
interleaved replay [1]; when and how is our choice.

[1] McClelland, McNaughton, O'Reilly: Why There Are Complementary Learning Systems in the Hippocampus and Neocortex.
    Psychological Review 102, 1995.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import IterableDataset
from typing_extensions import override

from case_lightning.config import ConsolidationSettings
from case_lightning.editing.batches import EditBatch, PreparedEdit, choose_wording, share_rows
from case_lightning.editing.ledger import Stream
from case_lightning.editing.stream import Row


class PassData(IterableDataset[EditBatch]):
    """The steps of one consolidation: past edits in random order, each once a pass.

    Every process draws the same order and takes its share of each step's rows.

    Args:
        past: The edits to learn again.
        settings: How many of them, how often.
        seed: Seed of the draws.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        past: Sequence[PreparedEdit],
        settings: ConsolidationSettings,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Store the arguments."""
        self.past, self.settings, self.seed, self.rank, self.world_size = past, settings, seed, rank, world_size

    def __len__(self) -> int:
        """Steps of the consolidation."""
        return count_steps(len(self.past), self.settings)

    @override
    def __iter__(self) -> Iterator[EditBatch]:
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(self.past), generator=generator)[: self.settings.edits]
        orders = [torch.randperm(len(chosen), generator=generator) for _ in range(self.settings.passes)]
        rows = chosen[torch.cat(orders)]
        draws = torch.rand(len(rows), generator=generator)
        for step in range(len(self)):
            part = slice(step * self.settings.batch_size, (step + 1) * self.settings.batch_size)
            edits = [self.past[index] for index in rows[part].tolist()]
            texts = [choose_wording(edit, draw) for edit, draw in zip(edits, draws[part].tolist(), strict=True)]
            yield share_rows(edits, texts, self.rank, self.world_size)


def is_due(before: int, after: int, settings: ConsolidationSettings, closing: int = 0) -> bool:
    """Whether a consolidation follows a batch.

    One follows whenever `every` edits are complete. One also ends a stream that brought at least half as many since:
    their run may be used for long as they left it. A stream of a few edits is not worth a pass over all.

    Args:
        before: Edits made before the batch.
        after: The same with it.
        settings: How often.
        closing: Edits of the stream that ends with the batch; 0 where none does.
    """
    every = settings.every
    return every > 0 and (before // every < after // every or 2 * min(after % every, closing) >= every)


def find_touched(subspaces: Sequence[int], before: int, settings: ConsolidationSettings) -> set[int]:
    """The subspaces that a consolidation trains: those of the edits since the last one, for the others forgot nothing.

    One at the end of a stream is not known here: what changed before it counts until `every` edits are complete.

    Args:
        subspaces: The subspace of each edit that was made, in order.
        before: Edits made before the batch that it follows.
        settings: How often.
    """
    return set(subspaces[before - before % settings.every :])


def find_resting(subspaces: Sequence[int], capacity: int, settings: ConsolidationSettings) -> set[int]:
    """The full subspaces that no consolidation to come trains: their edits are not rehearsed any more, either.

    Args:
        subspaces: The subspace of each edit that was made, in order.
        capacity: Edits of a full one.
        settings: How often.
    """
    touched = find_touched(subspaces, len(subspaces), settings) if settings.every else set()
    return {index for index, count in Counter(subspaces).items() if count >= capacity} - touched


def count_all_steps(rows: Sequence[Row], streams: Sequence[Stream], settings: ConsolidationSettings) -> int:
    """Optimizer steps of all consolidations of a run.

    Args:
        rows: Its ledger's edits.
        streams: Its ledger's streams.
        settings: Its settings.
    """
    made_rows = [row for row in rows if row["batch"] is not None]
    batches = {row["id"]: row["batch"] for row in made_rows}
    ends = {row["id"]: batches.get(row["superseded_by"], math.inf) for row in made_rows}
    sizes = Counter(row["stream"] for row in made_rows)
    last = {row["stream"]: row["batch"] for row in made_rows}  # rows are in order
    closing = {last[one.number]: sizes[one.number] for one in streams if one.finished and one.number in last}
    subspaces = [row["subspace"] for row in made_rows]
    steps = made = 0
    for batch, count in sorted(Counter(batches.values()).items()):
        if is_due(made, made + count, settings, closing.get(batch, 0)):
            touched = find_touched(subspaces[: made + count], made, settings)
            members = [row["id"] for row in made_rows if row["subspace"] in touched]
            steps += count_steps(sum(batches[name] <= batch < ends[name] for name in members), settings)
        made += count
    return steps


def count_steps(n_past: int, settings: ConsolidationSettings) -> int:
    """Optimizer steps of a consolidation of so many edits."""
    return -(-min(n_past, settings.edits) * settings.passes // settings.batch_size)
