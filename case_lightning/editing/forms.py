"""What a prompt asks, put into other forms: an English question as the start of a statement, and the other way round.

Ours, for fits and not for the router. "Who is the head of Freedonia?" and "The head of Freedonia is" share what is
asked, the core, and differ in the frame around it. A prompt whose frame is not known, as in most other languages, has
no other forms.
"""

import random
import re
from collections.abc import Collection, Iterable, Sequence

Unit = tuple[str, bool]  # a word, or the whole subject, and whether it is the subject

QUESTIONS = ("Who is {}?", "What is {}?")
STATEMENTS = ("{} is", "{} was", "Tell me {}:")
ASKING = frozenset(["who", "whom", "whose", "what", "which", "where", "when", "how"])
ENDING = frozenset(["is", "was", "are", "were", "by"])
ARTICLES = frozenset(["the", "a", "an"])
OPENING = ASKING | ENDING | ARTICLES | frozenset(["in", "on", "at", "to", "does", "did", "do", "has", "have", "will"])
OWNED = 0.3  # share of forms that say "Freedonia's head" for "head of Freedonia", where that can be said


def find_core(units: Sequence[Unit]) -> list[Unit] | None:
    """What is asked, or `None` where the prompt is neither a question nor the start of a statement.

    Args:
        units: The prompt's words, in order.
    """
    if not units or not (_is_one_of(units[0], ASKING) if is_question(units) else _is_one_of(units[-1], ENDING)):
        return None
    core = list(units)
    while core and _is_one_of(core[-1], ENDING | {"?"}):
        core.pop()
    while core and _is_one_of(core[0], OPENING):
        core.pop(0)
    return core or None


def is_question(units: Sequence[Unit]) -> bool:
    """Whether words end with a question mark."""
    return units[-1][0].endswith("?")


def put_in_form(core: Sequence[Unit], forms: Sequence[str], draw: random.Random) -> str:
    """What is asked, or some words of it, in one of some forms.

    Args:
        core: What is asked; one word at least.
        forms: `{}` is where it goes.
        draw: Which form.
    """
    words = [word if is_subject else word.rstrip("?") for word, is_subject in core]
    if core[-1][1] and "of" in words[-3:-1] and draw.random() < OWNED:
        words = _say_owned(words)
    elif not core[0][1]:
        words = ["the", *words]
    text, form = join_words(words), draw.choice(forms)
    return form.format(text[:1].upper() + text[1:] if form.startswith("{}") else text)


def join_words(words: Iterable[str]) -> str:
    """Words as a text, in which no mark stands alone."""
    return re.sub(r" (?=[?.,:!](?: |$))", "", " ".join(words))


def _say_owned(words: list[str]) -> list[str]:
    """'head of the United States' as 'United States's head'."""
    *rest, owner = words
    while rest and rest[-1].lower() in ARTICLES | {"of"}:
        rest.pop()
    return [f"{owner}'s", *rest]


def _is_one_of(unit: Unit, words: Collection[str]) -> bool:
    word, is_subject = unit
    return not is_subject and word.lower() in words
