"""Common questions in the place of wordings made by rule."""

from dataclasses import replace

import pytest

from case_lightning.data import Edit
from case_lightning.editing.variation import vary_prompt
from case_lightning.subspace.phrasebook import Phrasebook, read_phrasebook
from case_lightning.subspace.router import read_ordinary_lines

BOOK = Phrasebook("town\nWho is; mayor; Who runs {}; {} is run by\nWho is; priest; Who runs the church of {}\n")
EDIT = Edit(id="0", prompt="Who is the mayor of the Hague?", target="Ann", subject="Hague")
SAYINGS = {"Who runs the Hague?", "The Hague is run by", "The mayor of the Hague is", "Who is the Hague's mayor?"}
SAYINGS |= {"The Hague's mayor is"}


SENTENCES = sorted((line for line in read_ordinary_lines() if line.endswith((".", "?"))), key=len, reverse=True)


def strip(texts: list[str]) -> set[str]:
    """Variants without the sentences before them."""
    found = set(texts)
    for sentence in SENTENCES * 3:
        found = {text.removeprefix(f"{sentence} ") for text in found}
    return found


def say(edit: Edit, count: int = 4, rivals: tuple[Edit, ...] = (), book: Phrasebook = BOOK) -> set[str]:
    """What stands in the first two places, of many seeds."""
    return strip([text for seed in range(100) for text in vary_prompt(edit, count, seed, rivals, book)[:2]])


def test_two_of_them_are_common_questions() -> None:
    assert say(EDIT) == SAYINGS
    assert {len(vary_prompt(EDIT, count, 0, (), BOOK)) for count in (0, 1)} == {0, 1}


def test_others_are_as_without_a_list() -> None:
    for seed in range(50):
        plain, said = (vary_prompt(EDIT, 4, seed, (), book) for book in (None, BOOK))
        assert strip(said[2:]) <= strip(plain)
    odd = replace(EDIT, prompt="Who fears the mayor of the Hague?")
    assert all(vary_prompt(odd, 4, seed, (), BOOK) == vary_prompt(odd, 4, seed) for seed in range(50))
    nameless = replace(EDIT, subject=None)
    assert all(vary_prompt(nameless, 4, seed, (), BOOK) == vary_prompt(nameless, 4, seed) for seed in range(50))


def test_none_asks_what_another_edit_of_the_subject_answers() -> None:
    rival = replace(EDIT, id="1", prompt="Who runs the Hague?", target="Bob")
    assert not say(EDIT, rivals=(rival,)) & {"Who runs the Hague?", "The Hague is run by"}
    other = replace(rival, prompt="Who runs the church of the Hague?")
    assert {"Who runs the Hague?", "The Hague is run by"} <= say(EDIT, rivals=(other,))


@pytest.mark.parametrize(
    ("prompt", "subject", "saying"),
    [
        ("where is Bob born?", "Bob", "Bob was born in"),
        ("The capital of the United States is", "United States", "What is the capital of the United States?"),
        ("What does the Aster X2 laptop cost?", "Aster X2", "How much is the Aster X2?"),
    ],
)
def test_the_package_has_them(prompt: str, subject: str, saying: str) -> None:
    assert saying in say(replace(EDIT, prompt=prompt, subject=subject), book=read_phrasebook())
