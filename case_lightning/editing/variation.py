"""Other wordings of an edit's prompt, made by rule, so that the edit holds for more than its own wording.

Ours. A fit that sees one wording ties the answer to its last words: "Who is the head of Freedonia?" learned, "The head
of Freedonia is" lost. Each variant drops some words outside the subject, from none to all, and may change the order of
the rest. That is no good English, but it takes from the fit what to hold on to besides the subject; whether a question
asks of it what the edit says is the router's to tell. Where another edit says something else of the same subject, no
variant leaves out all that tells the two questions apart. An English question also becomes the start of a statement,
and such a start a question. Some variants stand behind other sentences, as a question does in a conversation. The
rephrases that come with an edit are never used: they are what it is scored on.
"""

import random
import re
from collections.abc import Sequence, Set
from functools import cache
from itertools import islice

from case_lightning.data import Edit
from case_lightning.data.checks import normalize_question
from case_lightning.data.subjects import find_subject
from case_lightning.editing.forms import (
    ARTICLES,
    ASKING,
    OPENING,
    QUESTIONS,
    STATEMENTS,
    Unit,
    find_core,
    is_question,
    join_words,
    put_in_form,
)
from case_lightning.subspace.phrasebook import Phrasebook
from case_lightning.subspace.router import read_ordinary_lines

DROP = 0.3  # share of words that a variant leaves out where no subject is known
SHUFFLE = 0.5  # share of variants in another order
SAID = 2  # variants that are common questions, where some ask the same
TURNED = 2  # variants that turn a question into a statement, or the other way round, and leave nothing out
FORM = 0.5  # share of the others in a form drawn anew, where the prompt's own is known
BEHIND, MOST = 0.3, 3  # share of variants behind other sentences, and how many at most
ARTICLE = re.compile(rf"\b(?:{'|'.join(sorted(ARTICLES))}) $", re.IGNORECASE)  # right before a name
OWNERS = ("'s", "\u2019s")
TRIES = 20  # draws for each variant, where there are rivals
WORD = re.compile(r"\w+")
FRAME = OPENING | {"of", "s", "tell", "me"}  # words that forms add or leave out
PLAIN = FRAME - ASKING  # those of them that never tell what is asked
LONGEST = 200  # characters; longer prompts are passages, of which the order is the meaning


def vary_prompt(
    edit: Edit, count: int, seed: int, rivals: Sequence[Edit] = (), phrasebook: Phrasebook | None = None
) -> list[str]:
    """Variants of an edit's prompt, without repeats and without the prompt itself.

    Args:
        edit: The edit.
        count: How many at most.
        seed: The same seed gives the same variants.
        rivals: Other edits of its subject that want another answer.
        phrasebook: Common questions, of which some take the place of others made by rule where they ask the same.
    """
    if len(edit.prompt) > LONGEST:
        return []
    draw = random.Random(f"{seed} {edit.id}")  # noqa: S311  no secret
    units = split_units(edit)
    core = find_core(units)
    drawn = (_vary(units, core, draw) for _ in range(TRIES * count if rivals else count))
    made = list(islice((text for text in drawn if not _asks_a_rival(text, edit, rivals)), count))
    if core:
        others = STATEMENTS if is_question(units) else QUESTIONS
        turned = [put_in_form(core, others, draw) for _ in made[:TURNED]]
        made[:TURNED] = [text for text in turned if not _asks_a_rival(text, edit, rivals)]
    if phrasebook:
        sayings = [one for one in _find_sayings(edit, rivals, phrasebook) if one != edit.prompt]
        said = draw.sample(sayings, min(SAID, len(sayings), count))
        made[: len(said)] = said
    distinct = [variant for variant in dict.fromkeys(made) if variant and variant != edit.prompt]
    return [_put_behind_others(variant, draw) if draw.random() < BEHIND else variant for variant in distinct]


def _find_sayings(edit: Edit, rivals: Sequence[Edit], phrasebook: Phrasebook) -> list[str]:
    """Common questions and beginnings of statements that ask what an edit's prompt asks, and no rival's."""
    place = find_subject(edit.prompt, edit.subject)
    if place is None:
        return []
    asked = _find_topics(edit, phrasebook).difference(*(_find_topics(rival, phrasebook) for rival in rivals))
    article = ARTICLE.search(edit.prompt[: place[0]])
    name = (article[0].lower() if article else "") + edit.prompt[place[0] : place[1]]
    sayings = [saying.replace("{}", name) for topic in sorted(asked) for saying in phrasebook.say(topic)]
    return [saying[:1].upper() + saying[1:] for saying in dict.fromkeys(sayings)]


def _find_topics(edit: Edit, phrasebook: Phrasebook) -> frozenset[int]:
    start, end = find_subject(edit.prompt, edit.subject) or (0, 0)
    return phrasebook.find(edit.prompt[:start], edit.prompt[end:]) if end else frozenset()


def find_rivals(edit: Edit, others: Sequence[Edit]) -> list[Edit]:
    """Those of other edits that ask something else of an edit's subject and want another answer."""
    if not edit.subject:
        return []
    question, subject, target = normalize_question(edit.prompt), edit.subject.strip().casefold(), edit.target.strip()
    same = [one for one in others if one.subject and one.subject.strip().casefold() == subject]
    return [one for one in same if normalize_question(one.prompt) != question and one.target.strip() != target]


def _vary(units: Sequence[Unit], core: Sequence[Unit] | None, draw: random.Random) -> str:
    chosen = core if core and draw.random() < FORM else None
    drop = draw.random() if any(is_subject for _, is_subject in units) else DROP
    kept = [unit for unit in chosen or units if unit[1] or draw.random() >= drop]
    if draw.random() < SHUFFLE:
        draw.shuffle(kept)
    if chosen and kept:
        return put_in_form(kept, QUESTIONS + STATEMENTS, draw)
    return join_words(word for word, _ in kept)


def _asks_a_rival(text: str, edit: Edit, rivals: Sequence[Edit]) -> bool:
    """Whether a variant lacks words, and what is left of them asks a rival as well."""
    return any(_fits_both(text, edit, rival) for rival in rivals)


def _fits_both(text: str, edit: Edit, rival: Edit) -> bool:
    mine, theirs = _find_content(edit.prompt, edit.subject), _find_content(rival.prompt, edit.subject)
    frame = FRAME
    if mine == theirs:  # "When was it founded?" and "Where was it founded?"
        frame = PLAIN
        mine, theirs = _find_content(edit.prompt, edit.subject, frame), _find_content(rival.prompt, edit.subject, frame)
    left = _find_content(text, edit.subject, frame) & mine
    return left != mine and left <= theirs


def _find_content(text: str, subject: str | None, frame: Set[str] = FRAME) -> set[str]:
    """The words that say what is asked of a subject."""
    return set(WORD.findall(text.lower())) - set(WORD.findall((subject or "").lower())) - frame


def _put_behind_others(text: str, draw: random.Random) -> str:
    return " ".join([*draw.sample(_read_sentences(), draw.randint(1, MOST)), text])


@cache
def _read_sentences() -> list[str]:
    return [line for line in read_ordinary_lines() if line.endswith((".", "?"))]


def split_units(edit: Edit) -> list[Unit]:
    """The prompt's words, the subject's as one unit with its *'s*; each with whether it is the subject."""
    prompt = edit.prompt
    place = find_subject(prompt, edit.subject)
    if place is None:
        return [(word, False) for word in prompt.split()]
    start, end = place
    end += len(OWNERS[0]) if prompt.startswith(OWNERS, end) else 0
    before, named, after = prompt[:start].split(), prompt[start:end], prompt[end:].split()
    return [(word, False) for word in before] + [(named, True)] + [(word, False) for word in after]
