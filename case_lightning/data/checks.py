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
| the same prompt and target twice in one batch | the later one is kept, the earlier one dropped |
| one prompt, two targets in one batch | the later one is kept, the earlier one dropped |
| one prompt, two targets in different batches | both are kept: the later batch supersedes the earlier |

An error ends the run, or with `on_error="skip"` leaves its record out; records left out are counted and reported.

A target must be text because a number does not say how it is to be written: 1.0 or 1, 2006 or 2,006.

The later of two edits of one prompt wins because a stream is read as time: written one at a time, the second would
supersede the first, and the batch size shall not change what the model knows in the end. Edits about one subject under
different prompts are no contradiction to be settled here, even if they disagree; the conflict score sees to them.
Prompts are the same if they differ in nothing but white space.
"""

from collections.abc import Callable, Iterable, Iterator

from case_lightning.data.edit import Edit
from case_lightning.errors import DataError


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


def check_fits(edit: Edit, count_tokens: Callable[[str], int], max_tokens: int) -> None:
    """Check that an edit fits the model's context in each form in which it will be asked and answered.

    Args:
        edit: The edit.
        count_tokens: The length of a text in tokens, special tokens included.
        max_tokens: The length of the model's context in tokens.

    Raises:
        DataError: If a question together with its answer is longer, the message names both lengths; or if the prompt
            or the target is of no token at all.
    """
    for name, text in (("prompt", edit.prompt), ("target", edit.target)):
        if count_tokens(text) <= count_tokens(""):
            raise DataError(f"edit {edit.id!r}: {name}: expected text that has tokens, found none in {text!r}")
    for name, text in _list_passages(edit):
        length = count_tokens(text)
        if length > max_tokens:
            expected = f"{name} and its answer together to fit the context of {max_tokens} tokens"
            raise DataError(f"edit {edit.id!r}: expected {expected}, found {length}")


def _list_passages(edit: Edit) -> Iterator[tuple[str, str]]:
    yield "the prompt", f"{edit.prompt} {edit.target}"
    for index, rephrase in enumerate(edit.rephrases):
        yield f"rephrases[{index}]", f"{rephrase} {edit.target}"
    for index, locality in enumerate(edit.locality):
        yield f"locality[{index}]", f"{locality.prompt} {locality.answer or ''}"


def split_batches(edits: list[Edit], batch_size: int) -> list[list[Edit]]:
    """Split a stream of edits into batches, in order; within a batch the later edit of one prompt replaces the earlier.

    A batch from which edits were dropped stays shorter, so that every other edit keeps its batch.
    """
    starts = range(0, len(edits), batch_size)
    return [keep_latest(edits[start : start + batch_size]) for start in starts]


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
