"""What becomes of data that can be read but not taken as it stands.

| case | outcome |
|---|---|
| prompt or target missing, blank, or not text (a number, too) | error |
| two records with one id | error that names both places |
| no id and no case_id | the record's number from 0; `record-N` if another record was given that number as its id |
| an optional field blank, empty, null or missing | as if it were not there |
| an optional field that is not text | error |
| a subject that the prompt does not contain | as if there were none, with a warning that counts them |
| half of a surrogate pair in a text | error |
| a prompt or target of which the tokenizer makes no token | error |
| a question of any kind, with its answer, longer than the context | error that names both lengths |
| one prompt twice, in one batch or in two, by default | the later one holds |
| … with `on_contradiction` `reject` | the earlier one holds |
| … with `on_contradiction` `keep` | both hold |

An error ends the run, or with `on_error="skip"` leaves its record out; records left out are counted and reported.

A target must be text because a number does not say how it is to be written: 1.0 or 1, 2006 or 2,006.

The later of two edits of one prompt wins by default because a stream is read as time. Whatever becomes of such a pair
is the same in one batch as in two: the batch size shall not change what the model knows in the end. Edits about one
subject under different prompts are no contradiction to be settled here, even if they disagree; the conflict score sees
to them. Prompts are the same if they differ in nothing but white space.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal

from case_lightning.data.edit import Edit
from case_lightning.errors import DataError

OnContradiction = Literal["supersede", "keep", "reject"]


def check_unique_id(edit: Edit, place: str, places: dict[str, str]) -> None:
    """Check that no record before had the id of this one, and take note of it.

    Args:
        edit: The edit.
        place: Where it was read.
        places: Where each id was first read; this id is added.

    Raises:
        DataError: If another record has it.
    """
    first = places.setdefault(edit.id, place)
    if first != place:
        raise DataError(f"id: expected one of its own, found {edit.id!r}, which {first} has as well")


def check_fits(edit: Edit, count_tokens: Callable[[str], int], max_tokens: int, n_end: int = 0) -> None:
    """Check that an edit fits the model's context in each form in which it will be asked and answered.

    Args:
        edit: The edit.
        count_tokens: The length of a text in tokens, special tokens included.
        max_tokens: The length of the model's context in tokens.
        n_end: Tokens that follow the target where the edit is learned.

    Raises:
        DataError: If a question together with its answer is longer, the message names both lengths; or if the prompt
            or the target is of no token at all.
    """
    for name, text in (("prompt", edit.prompt), ("target", edit.target)):
        if count_tokens(text) <= count_tokens(""):
            raise DataError(f"edit {edit.id!r}: {name}: expected text that has tokens, found none in {text!r}")
    for name, text in _list_passages(edit):
        length = count_tokens(text) + (n_end if name == "the prompt" else 0)
        if length > max_tokens:
            expected = f"{name} and its answer together to fit the context of {max_tokens} tokens"
            raise DataError(f"edit {edit.id!r}: expected {expected}, found {length}")


def _list_passages(edit: Edit) -> Iterator[tuple[str, str]]:
    yield "the prompt", f"{edit.prompt} {edit.target}"
    for index, rephrase in enumerate(edit.rephrases):
        yield f"rephrases[{index}]", f"{rephrase} {edit.target}"
    for index, locality in enumerate(edit.locality):
        yield f"locality[{index}]", f"{locality.prompt} {locality.answer or '.'}"  # as it is scored


def split_batches(
    edits: Sequence[Edit], batch_size: int, on_contradiction: OnContradiction = "supersede"
) -> list[list[Edit]]:
    """Split a stream of edits into batches, in order, of which each has a prompt once unless both are to be kept.

    A batch from which edits were dropped stays shorter, so that every other edit keeps its batch.
    """
    starts = range(0, len(edits), batch_size)
    return [settle(edits[start : start + batch_size], on_contradiction) for start in starts]


def settle(batch: Sequence[Edit], on_contradiction: OnContradiction, asked: Collection[str] = ()) -> list[Edit]:
    """Return the edits of a batch that are to be made.

    Args:
        batch: The edits, in order.
        on_contradiction: What becomes of those whose question another one has.
        asked: The questions of earlier edits that hold, as of `normalize_question`; `reject` leaves them out.
    """
    if on_contradiction == "keep":
        return list(batch)
    if on_contradiction == "supersede":
        return keep_latest(batch)
    earliest: dict[str, Edit] = {}
    for edit in batch:
        earliest.setdefault(normalize_question(edit.prompt), edit)
    return [edit for question, edit in earliest.items() if question not in asked]


def keep_latest(batch: Iterable[Edit]) -> list[Edit]:
    """Return a batch without the edits whose prompt comes again later in it, in the order of the rest."""
    latest: dict[str, Edit] = {}
    for edit in batch:
        key = normalize_question(edit.prompt)
        latest.pop(key, None)
        latest[key] = edit
    return list(latest.values())


def normalize_question(prompt: str) -> str:
    """What two prompts have in common that are the same question: all but white space."""
    return " ".join(prompt.split())
