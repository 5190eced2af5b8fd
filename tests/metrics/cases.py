"""One table of metrics, their options and the batches they see; every test of a behaviour all share runs over it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from case_lightning.metrics import (
    BitIdentity,
    ConflictScores,
    Generalization,
    Locality,
    Reliability,
    Retention,
    SensitivityDistribution,
    SubspaceGrowth,
    TargetPerplexity,
)
from case_lightning.metrics.edit_metric import EditMetric

Batch = dict[str, Any]
VOCAB = 6


class Case(NamedTuple):
    """A metric and what it is fed; `reference` names the function of `tests.metrics.naive` it has to agree with."""

    name: str
    build: Callable[[], EditMetric]
    batches: list[Batch]
    reference: str


def ragged_labels(generator: torch.Generator, rows: int, seq: int) -> Tensor:
    """Ids after a prompt and before a padding of random length, so some rows of one label and some of none."""
    labels = torch.randint(VOCAB, (rows, seq), generator=generator)
    start = torch.randint(seq, (rows, 1), generator=generator)
    stop = start + torch.randint(seq, (rows, 1), generator=generator)
    positions = torch.arange(seq)
    return labels.where((positions >= start) & (positions < stop), -100)


def disturb(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Change about three ids in ten, and whatever is negative."""
    changed = (torch.rand(ids.shape, generator=generator) < 0.3) | (ids < 0)
    return torch.randint(VOCAB, ids.shape, generator=generator).where(changed, ids)


def batches_of_labels(seed: int, *shapes: tuple[int, int]) -> Iterator[tuple[Tensor, torch.Generator]]:
    generator = torch.Generator().manual_seed(seed)
    return ((ragged_labels(generator, *shape), generator) for shape in shapes)


def ragged_ids(seed: int, *shapes: tuple[int, int]) -> list[Batch]:
    return [{"predictions": disturb(labels, g), "labels": labels} for labels, g in batches_of_labels(seed, *shapes)]


def unrelated_ids(seed: int, *shapes: tuple[int, int]) -> list[Batch]:
    batches = []
    for labels, generator in batches_of_labels(seed, *shapes):
        unedited = labels.clamp(min=0)
        batches.append(
            {"edited": disturb(unedited, generator), "unedited": unedited, "labels_mask": labels != -100},
        )
    return batches


def distributions(seed: int, *shapes: tuple[int, int], scale: float = 3.0) -> list[Batch]:
    return [
        {"logits": torch.randn(*labels.shape, VOCAB, generator=g) * scale, "labels": labels}
        for labels, g in batches_of_labels(seed, *shapes)
    ]


def nudged_logits(seed: int, *shapes: tuple[int, int]) -> list[Batch]:
    """Every other row has one logit moved by one unit in the last place."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for rows, seq in shapes:
        unedited = torch.randn(rows, seq, VOCAB, generator=generator)
        edited = unedited.clone()
        edited[::2, -1, 2] = edited[::2, -1, 2].nextafter(torch.tensor(9.0))
        batches.append({"edited_logits": edited, "unedited_logits": unedited})
    return batches


def ids(predictions: list[list[int]], labels: list[list[int]]) -> Batch:
    return {"predictions": torch.tensor(predictions), "labels": torch.tensor(labels)}


def points(*pairs: tuple[int, float]) -> list[Batch]:
    return [{"n_edits": n_edits, "value": value} for n_edits, value in pairs]


def scored_edits(*rows: tuple[int, list[float]]) -> list[Batch]:
    return [{"edit": edit, "scores": scores} for edit, scores in rows]


def placed_edits(*pairs: tuple[int, int]) -> list[Batch]:
    return [{"edit": edit, "subspace": subspace} for edit, subspace in pairs]


def masks(seed: int, *sizes: int) -> list[Batch]:
    """Sensitivities over many orders of magnitude, the first one 0, and half of the neurons kept."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for size in sizes:
        sensitivity = torch.exp(3 * torch.randn(size, generator=generator))
        sensitivity[0] = 0
        batches.append({"sensitivity": sensitivity, "mask": torch.rand(size, generator=generator) < 0.5})
    return batches


RAGGED = ((5, 7), (1, 4), (0, 4), (6, 9), (3, 2))
IDS = torch.ones(2, 2, dtype=torch.long)
UNLABELLED = ids([[1, 2], [3, 4]], [[-100, -100], [-100, -100]])
UNLABELLED_BETWEEN = ids([[1, 2], [3, 4], [1, 1]], [[1, -100], [-100, -100], [1, 2]])
UNMASKED = {"edited": IDS, "unedited": IDS, "labels_mask": IDS < 0}
UNPREDICTED = {"logits": torch.zeros(2, 2, VOCAB), "labels": UNLABELLED["labels"]}
EXTREME = {  # losses of 0, about 200 (beyond float32's exponential) and 2 nats
    "logits": torch.tensor([[[400.0, 0.0]], [[200.0, 0.0]], [[0.0, 2.0]]]),
    "labels": torch.tensor([[0], [1], [0]]),
}
INFINITE = {"logits": torch.tensor([[[2000.0, 0.0]], [[1.0, 0.0]]]), "labels": torch.tensor([[1], [1]])}

exact = partial(Reliability, exact=True)
median = partial(TargetPerplexity, reduction="median")

CASES = [
    Case("reliability", Reliability, ragged_ids(0, *RAGGED), "accuracy"),
    Case("generalization", Generalization, ragged_ids(1, *RAGGED), "accuracy"),
    Case("reliability-many-rows", Reliability, ragged_ids(2, *[(50, 6)] * 20), "accuracy"),
    Case("reliability-one-row", Reliability, [ids([[4, 5, 1]], [[-100, 5, 2]])], "accuracy"),
    Case("reliability-row-left-out", Reliability, [UNLABELLED_BETWEEN], "accuracy"),
    Case("reliability-no-row-left", Reliability, [UNLABELLED], "accuracy"),
    Case("exact", exact, ragged_ids(3, *RAGGED), "exact_match"),
    Case("exact-generalization", partial(Generalization, exact=True), ragged_ids(4, *RAGGED), "exact_match"),
    Case("exact-row-left-out", exact, [UNLABELLED_BETWEEN], "exact_match"),
    Case("exact-no-row-left", exact, [UNLABELLED], "exact_match"),
    Case("locality", Locality, unrelated_ids(5, *RAGGED), "locality"),
    Case("locality-one-row", Locality, unrelated_ids(6, (1, 8)), "locality"),
    Case("locality-no-row-left", Locality, [UNMASKED], "locality"),
    Case("bit-identity", BitIdentity, nudged_logits(7, *RAGGED), "bit_identity"),
    Case("bit-identity-one-row", BitIdentity, nudged_logits(8, (1, 3)), "bit_identity"),
    Case("perplexity", TargetPerplexity, distributions(9, *RAGGED), "mean_perplexity"),
    Case("perplexity-median-even", median, distributions(10, (4, 9), (4, 9)), "median_perplexity"),
    Case("perplexity-median-odd", median, distributions(11, *RAGGED), "median_perplexity"),
    Case("perplexity-one-row", TargetPerplexity, distributions(14, (1, 5)), "mean_perplexity"),
    Case("perplexity-no-row-left", TargetPerplexity, [UNPREDICTED], "mean_perplexity"),
    Case("perplexity-median-no-row-left", median, [UNPREDICTED], "median_perplexity"),
    Case("perplexity-extreme", TargetPerplexity, [EXTREME], "mean_perplexity"),
    Case("perplexity-infinite", TargetPerplexity, [EXTREME, INFINITE], "mean_perplexity"),
    Case("perplexity-infinite-outvoted", median, [EXTREME, INFINITE], "median_perplexity"),
    Case("perplexity-infinite-median", median, [INFINITE, INFINITE, INFINITE, EXTREME], "median_perplexity"),
    Case("retention", Retention, points((10, 1.0), (20, 0.9), (30, 0.7)), "retention"),
    Case("retention-unsorted", Retention, points((30, 0.5), (10, 1.0), (0, 0.0), (20, 0.25)), "retention"),
    Case("retention-repeated", Retention, points((10, 0.3), (10, 0.3), (10, 0.3), (20, 0.5), (20, 0.7)), "retention"),
    Case("retention-one-point", Retention, points((1000, 0.98)), "retention"),
    Case("conflict", ConflictScores, scored_edits((1, [0.5]), (2, [-0.5, 1.0]), (4, [0.1, 0.2, 0.3])), "conflict"),
    Case(
        "conflict-repeated", ConflictScores, scored_edits((3, [0.5, 0.1]), (1, [0.2]), (3, [0.7]), (2, [1])), "conflict"
    ),
    Case("growth", SubspaceGrowth, placed_edits((1, 0), (2, 1), (3, 0), (4, 5)), "growth"),
    Case("growth-unsorted", SubspaceGrowth, placed_edits((9, 2), (4, 1), (4, 1), (7, 1)), "growth"),
    Case("sensitivity", SensitivityDistribution, masks(15, 40, 7, 300), "sensitivity"),
]
