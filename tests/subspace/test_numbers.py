"""Numbers as a reader sees them, whatever tokens they are cut into."""

import pytest
import torch

from case_lightning.subspace import UNEDITED, Router, TokenSpace
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.numbers import Numbers
from tests.bad_input.byte_base import build_tokenizer
from tests.subspace import test_spelling as pieces

BYTES = build_tokenizer()


def encode(text: str) -> torch.Tensor:
    return torch.tensor(BYTES(text).input_ids)


def agrees(query: str, prompt: str, subject: str) -> bool:
    """`query` has the stretch that names the subject between bars."""
    before, named, behind = query.split("|")
    start = prompt.index(subject)
    place = torch.arange(len(prompt))
    marks = (place >= start) & (place < start + len(subject))
    stretch = slice(len(before), len(before) + len(named))
    return Numbers(BYTES).agree(encode(before + named + behind), stretch, encode(prompt), marks)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Who won the |2022 World Cup|?", True),
        ("Who won the |World Cup of 2022|?", True),
        ("Who won the 20|22 World Cup|?", True),  # from its last tokens that are needed on
        ("Who won the |World Cup of 20|22?", True),
        ("Who won the |2002 World Cup|?", False),
        ("Who won the |2220 World Cup|?", False),
        ("Who won the 1|2022 World Cup|?", False),
        ("In 2022, who won the |2002 World Cup|?", False),
        ("Who won the |World Cup|?", False),
    ],
)
def test_numbers_of_a_subject(query: str, expected: bool) -> None:
    assert agrees(query, "The winner of the 2022 World Cup is", "2022 World Cup") == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Who won the |World Cup| in 2022?", True),
        ("Who won the |World Cup in 2022?|", True),
        ("In 2022, who won the |World Cup|?", True),
        ("Who won the |World Cup|?", True),
        ("Who won the |World Cup in 2002?|", False),
        ("It is 2022 now. Who won the |World Cup in 2002?|", True),  # which of them is meant, words tell
    ],
)
def test_numbers_beside_a_subject(query: str, expected: bool) -> None:
    assert agrees(query, "The winner of the World Cup in 2022 is", "World Cup") == expected


def test_a_comma_between_thousands_is_no_end_of_a_number() -> None:
    assert agrees("|Group of 1,000|", "The Group of 1000 is", "Group of 1000")
    assert not agrees("|Group of 1,0|", "The Group of 10 is", "Group of 10")


def test_the_router_tells_years_apart_whose_digits_are_the_same() -> None:
    table = torch.randn(len(pieces.TOKENIZER), 256, generator=torch.Generator().manual_seed(0))
    space, keys = TokenSpace(table, torch.arange(len(pieces.TOKENIZER))), RouterKeys()
    for subspace, year in enumerate(("2022", "2002")):
        pieces.add_key(keys, f"Bowl {year}", subspace)
    router = Router(space, keys, 0.8, 0.07, numbers=Numbers(pieces.TOKENIZER))
    asked = [pieces.encode(f"The mayor of Bowl {year}") for year in ("2022", "2002", "2020")]
    assert [int(router.route(one[None])) for one in asked] == [0, 1, UNEDITED]
    by_tokens = Router(space, keys, 0.8, 0.07)
    assert [int(by_tokens.route(one[None])) for one in asked] == [1, 1, 1]
