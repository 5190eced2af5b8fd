"""What the model says before and after an edit, as `examples.json` holds it, and which edits to show."""

from dataclasses import dataclass

from case_lightning.errors import RunError
from case_lightning.reporting.fields import take_number, take_text


@dataclass(frozen=True)
class Answers:
    """The generated answers to one edit's prompt.

    Attributes:
        id: The edit's own name.
        prompt: The question.
        target: The answer that was written.
        unedited: What the unedited model says.
        edited: What the edited model says.
        reliability: The edit's score on its prompt.
        generalization: The edit's score on its rephrases.
    """

    id: str | None
    prompt: str | None
    target: str | None
    unedited: str | None
    edited: str | None
    reliability: float | None
    generalization: float | None


def parse_answers(values: object, place: str) -> list[Answers]:
    """Take the answers from the list that `examples.json` holds; `None` counts as an empty list.

    Raises:
        RunError: If it is no list of objects, or a field is neither absent, null nor of its kind.
    """
    if values is None:
        return []
    if not isinstance(values, list):
        raise RunError(f"{place}: expected a list, found {type(values).__name__}")
    return [_parse_answer(value, f"{place}: number {index}") for index, value in enumerate(values)]


def _parse_answer(value: object, place: str) -> Answers:
    if not isinstance(value, dict):
        raise RunError(f"{place}: expected an object, found {type(value).__name__}")
    return Answers(
        id=take_text(value, "id", place),
        prompt=take_text(value, "prompt", place),
        target=take_text(value, "target", place),
        unedited=take_text(value, "unedited", place),
        edited=take_text(value, "edited", place),
        reliability=take_number(value, "reliability", place),
        generalization=take_number(value, "generalization", place),
    )


def pick_best_and_worst(answers: list[Answers], count: int) -> tuple[list[Answers], list[Answers]]:
    """Pick the edits that went best and those that went worst, without naming one twice.

    Args:
        answers: The answers of any number of edits; those without a score are left out.
        count: How many of each at most.

    Returns:
        The best, best first, and the worst, worst first. Reliability counts first, then generalization.
    """
    ranked = sorted((each for each in answers if each.reliability is not None), key=_rank, reverse=True)
    n_worst = min(count, len(ranked) // 2)
    n_best = min(count, len(ranked) - n_worst)
    return ranked[:n_best], ranked[::-1][:n_worst]


def _rank(answers: Answers) -> tuple[float, float]:
    return answers.reliability or 0.0, answers.generalization or 0.0
