"""From a model and its edits to the figures of `metrics.json`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from case_lightning.data import Edit
from case_lightning.editing.scoring import Answer, Questions, Scorer, collect_questions, sort_by_length
from case_lightning.metrics import IGNORE_INDEX, BitIdentity, Generalization, Locality, Reliability
from case_lightning.metrics.perplexity import compute_target_perplexity

Figures = dict[str, Any]
ALONE = {"sync_on_compute": False}  # the first process of a distributed run scores, the others have ended


def evaluate_model(scorer: Scorer, edits: Sequence[Edit], generate: bool = True) -> tuple[Figures, list[Figures]]:
    """Score the final model on all edits.

    Args:
        scorer: The model.
        edits: What it was edited with.
        generate: Whether free generation is scored, too.

    Returns:
        The parts `pre`, `final` and `harness` of `metrics.json`, and for each edit its own figures.
    """
    questions = collect_questions(scorer, edits)
    pre, final = _score(scorer, questions, edited=False), _score(scorer, questions, edited=True)
    locality, harness = _score_locality(scorer, questions)
    free = {"generated_exact_match": questions.prompts, "generated_generalization_exact_match": questions.rephrases}
    for name, asked in free.items():
        final[name] = _mean(scorer.matches(asked)) if generate else None
    details = final.pop("details")
    pre.pop("details")
    pre["locality"] = 1.0 if locality["locality"] is not None else None
    parts = {"pre": pre, "final": final | locality, "harness": harness}
    return parts, details


def _score(scorer: Scorer, questions: Questions, edited: bool) -> Figures:
    prompts, rephrases = scorer.ask(questions.prompts, edited), scorer.ask(questions.rephrases, edited)
    losses = torch.tensor([answer.nll for answer in prompts], dtype=torch.float64)
    return {
        "reliability": _accuracy(Reliability(**ALONE), prompts),
        "generalization": _accuracy(Generalization(**ALONE), rephrases),
        "exact_match": _accuracy(Reliability(exact=True, **ALONE), prompts),
        "generalization_exact_match": _accuracy(Generalization(exact=True, **ALONE), rephrases),
        "perplexity": _number(compute_target_perplexity(losses)),
        "perplexity_median": _number(compute_target_perplexity(losses, "median")),
        "details": [_describe(index, answer, rephrases, questions.owners) for index, answer in enumerate(prompts)],
    }


def _score_locality(scorer: Scorer, questions: Questions) -> tuple[Figures, Figures]:
    """Locality of both protocols; edited and unedited model see the same batches."""
    same, identical = Locality(**ALONE), BitIdentity(**ALONE)
    right: dict[bool, list[float]] = {True: [], False: []}
    step = scorer.batch_size
    order = sort_by_length(questions.unrelated)
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        batch = [questions.unrelated[index] for index in chosen]
        edited, unedited = (scorer.ask(batch, edited=flag, keep_logits=True) for flag in (True, False))
        same.update(_pad(edited), _pad(unedited), _pad(edited, labels=True) != IGNORE_INDEX)
        for index, one, other in zip(chosen, edited, unedited, strict=True):
            assert one.logits is not None  # noqa: S101  for the type checker
            assert other.logits is not None  # noqa: S101
            identical.update(one.logits[None], other.logits[None])
            if questions.answered[index]:
                right[True].append(one.accuracy)
                right[False].append(other.accuracy)
    if not order:
        return {"locality": None, "locality_bit_identical": None}, {"locality": None, "locality_unedited": None}
    wise = {"locality": _number(same.compute()), "locality_bit_identical": _number(identical.compute())}
    return wise, {"locality": _mean(right[True]), "locality_unedited": _mean(right[False])}


def _accuracy(metric: Reliability | Generalization, answers: Sequence[Answer]) -> float | None:
    if not answers:
        return None
    metric.update(_pad(answers), _pad(answers, labels=True))
    return _number(metric.compute())


def _pad(answers: Sequence[Answer], labels: bool = False) -> Tensor:
    rows = [answer.labels if labels else answer.predicted for answer in answers]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX if labels else 0)


def _describe(index: int, answer: Answer, rephrases: Sequence[Answer], owners: Sequence[int]) -> Figures:
    own = [rephrase.accuracy for rephrase, owner in zip(rephrases, owners, strict=True) if owner == index]
    return {"reliability": answer.accuracy, "generalization": _mean(own), "loss": answer.nll}


def _mean(values: Sequence[float] | Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None
