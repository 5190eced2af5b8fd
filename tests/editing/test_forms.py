"""Questions as statements and statements as questions."""

import random

import pytest

from case_lightning.editing.forms import QUESTIONS, STATEMENTS, find_core, put_in_form
from case_lightning.editing.variation import split_units
from tests.editing.test_encoding import make_edit


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("Who is the head of Freedonia?", "Freedonia", "head of Freedonia"),
        ("The head of Freedonia is", "Freedonia", "head of Freedonia"),
        ("In which town does Oslo lie?", "Oslo", None),  # neither begins nor ends as one that is known
        ("Which town was Rufus Firefly born in?", "Rufus Firefly", "town was Rufus Firefly born in?"),
        ("Who is the head of Freedonia?", None, "head of Freedonia?"),
        ("The Who is", "The Who", "The Who"),
        ("The Freedonian anthem was written by", None, "Freedonian anthem was written"),
        ("Is Freedonia a country?", "Freedonia", None),
        ("Wer ist der Präsident von Freedonia?", "Freedonia", None),
        ("What?", None, None),
    ],
)
def test_the_core_is_a_prompt_without_its_frame(prompt: str, subject: str | None, expected: str | None) -> None:
    core = find_core(split_units(make_edit(prompt, subject)))
    assert (core and " ".join(word for word, _ in core)) == expected


def test_no_words_have_no_core() -> None:
    assert find_core([]) is None


def put_in_all_forms(prompt: str, subject: str | None, forms: tuple[str, ...]) -> set[str]:
    core = find_core(split_units(make_edit(prompt, subject)))
    assert core is not None
    draw = random.Random(0)  # noqa: S311  no secret
    return {put_in_form(core, forms, draw) for _ in range(100)}


def test_a_question_becomes_the_start_of_a_statement() -> None:
    assert put_in_all_forms("Who is the head of the US?", "US", STATEMENTS) == {
        "The head of the US is",
        "The head of the US was",
        "Tell me the head of the US:",
        "US's head is",
        "US's head was",
        "Tell me US's head:",
    }


def test_the_start_of_a_statement_becomes_a_question() -> None:
    assert put_in_all_forms("Mount Oslo's height is", "Mount Oslo", QUESTIONS) == {
        "Who is Mount Oslo's height?",
        "What is Mount Oslo's height?",
    }
    assert put_in_all_forms("Who rules Freedonia?", None, QUESTIONS) == {
        "Who is the rules Freedonia?",
        "What is the rules Freedonia?",
    }


def test_a_subject_keeps_its_own_marks() -> None:
    assert put_in_all_forms("Who wrote Where Are You?", "Where Are You?", ("{} is",)) == {"The wrote Where Are You? is"}
