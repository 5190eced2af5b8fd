"""The scores restated with python numbers and loops, sharing no line with the package."""

import math
import struct
from statistics import median

from torch import Tensor

from tests.metrics.cases import Batch


def row_accuracies(batches: list[Batch]) -> list[float]:
    accuracies = []
    for batch in batches:
        for predicted, labelled in zip(batch["predictions"].tolist(), batch["labels"].tolist(), strict=True):
            right = [p == y for p, y in zip(predicted, labelled, strict=True) if y != -100]
            if right:
                accuracies.append(sum(right) / len(right))
    return accuracies


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def accuracy(batches: list[Batch]) -> float:
    return mean(row_accuracies(batches))


def exact_match(batches: list[Batch]) -> float:
    return mean([float(share == 1) for share in row_accuracies(batches)])


def locality(batches: list[Batch]) -> float:
    shares = []
    for batch in batches:
        for row in range(len(batch["edited"])):
            same = [
                batch["edited"][row, position].item() == batch["unedited"][row, position].item()
                for position in range(batch["edited"].shape[1])
                if batch["labels_mask"][row, position].item()
            ]
            shares += [sum(same) / len(same)] if same else []
    return mean(shares)


def bits_of(row: Tensor) -> bytes:
    """Bits as IEEE doubles: widening keeps what makes two floats differ, the sign of zero included."""
    return b"".join(struct.pack("<d", value) for value in row.flatten().tolist())


def bit_identity(batches: list[Batch]) -> float:
    pairs = [pair for batch in batches for pair in zip(batch["edited_logits"], batch["unedited_logits"], strict=True)]
    return mean([float(bits_of(one) == bits_of(other)) for one, other in pairs])


def row_perplexities(batches: list[Batch]) -> list[float]:
    perplexities = []
    for batch in batches:
        for logits, labels in zip(batch["logits"].tolist(), batch["labels"].tolist(), strict=True):
            losses = [token_loss(scores, label) for scores, label in zip(logits, labels, strict=True) if label != -100]
            if losses:
                perplexities.append(exponential(sum(losses) / len(losses)))
    return perplexities


def token_loss(scores: list[float], label: int) -> float:
    highest = max(scores)
    return highest + math.log(math.fsum(math.exp(score - highest) for score in scores)) - scores[label]


def exponential(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def mean_perplexity(batches: list[Batch]) -> float:
    return mean(row_perplexities(batches))


def median_perplexity(batches: list[Batch]) -> float:
    perplexities = row_perplexities(batches)
    return median(perplexities) if perplexities else math.nan


def retention(batches: list[Batch]) -> list[list[float]]:
    def mean_at(n_edits: int) -> float:
        return mean([float(batch["value"]) for batch in batches if batch["n_edits"] == n_edits])

    return [[n_edits, mean_at(n_edits)] for n_edits in sorted({batch["n_edits"] for batch in batches})]


def conflict(batches: list[Batch]) -> list[list[float]]:
    width = max(len(batch["scores"]) for batch in batches)

    def mean_at(edit: int, subspace: int) -> float:
        rows = [batch["scores"] for batch in batches if batch["edit"] == edit]
        return mean([row[subspace] for row in rows if subspace < len(row)])

    edits = sorted({batch["edit"] for batch in batches if batch["scores"]})
    return [[mean_at(edit, subspace) for subspace in range(width)] for edit in edits]


def growth(batches: list[Batch]) -> list[list[float]]:
    edits = sorted({batch["edit"] for batch in batches})
    return [[edit, len({batch["subspace"] for batch in batches if batch["edit"] <= edit})] for edit in edits]


def sensitivity(batches: list[Batch]) -> list[list[float]]:
    counts = [[0.0, 0.0] for _ in range(24)]
    for batch in batches:
        values = batch["sensitivity"].tolist()
        for value, kept in zip(values, batch["mask"].tolist(), strict=True):
            power = math.log10(value / mean(values)) if value else -math.inf
            place = next((step for step in range(23) if power < -4 + (step + 1) / 4), 23)
            counts[place][0] += 1
            counts[place][1] += kept
    return counts
