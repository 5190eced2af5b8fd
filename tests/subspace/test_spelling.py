"""Misspelt names: which words are taken for a subject's, which are not, and what it does to routes."""

import random
from string import ascii_letters, punctuation

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from case_lightning.subspace import UNEDITED, Router, TokenSpace
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.spelling import Spelling, is_correctable, is_slip, shorten

WORDS = ("Martin", "Paula", "The", "mayor", "of", "is", "County")  # of one token each; others are spelled in letters
SUBJECTS = (
    "Danielle Darrieux",
    "Marin County",
    "Anna Müller",
    "Asteroid 20121",
    "Bowl XXIII",
    "Lars Petersen",
    "The Shining",
    "Tirana",
    "Slartibartfast",
    "Saint Paul",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    letters = [*ascii_letters, *punctuation, *"0123456789ü"]
    vocabulary = dict.fromkeys(["<unk>", *WORDS, *letters, *(f"##{letter}" for letter in letters)])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZER = build_tokenizer()


def encode(text: str) -> torch.Tensor:
    return torch.tensor(TOKENIZER(text).input_ids)


def add_key(keys: RouterKeys, subject: str, subspace: int) -> None:
    for name in (subject, subject.lower()):
        before, named = encode("The mayor of"), encode(name)
        tokens, marks = torch.cat([before, named]), torch.arange(len(before) + len(named)) >= len(before)
        keys.add(tokens, marks, subspace)


def make_keys() -> RouterKeys:
    keys = RouterKeys()
    for index, subject in enumerate(SUBJECTS):
        add_key(keys, subject, index)
    return keys


def correct(text: str, spelling: Spelling | None = None) -> str | None:
    found = (spelling or Spelling(TOKENIZER, make_keys())).correct(encode(text))
    return None if found is None else TOKENIZER.decode(found)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("The mayor of Dainelle Darrieux", "The mayor of Danielle Darrieux"),  # swapped
        ("The mayor of Danielle Darieux", "The mayor of Danielle Darrieux"),  # one less
        ("The mayor of Daniellle Darrieux", "The mayor of Danielle Darrieux"),  # one more
        ("The mayor of danielle darreiux", "The mayor of danielle darrieux"),  # in lower case
        ("The mayor of Slatribartfast", "The mayor of Slartibartfast"),  # a long subject of one word
        ("The mayor of Anna Mülller is", "The mayor of Anna Müller is"),
    ],
)
def test_one_slip_inside_a_word_is_corrected(asked: str, meant: str) -> None:
    assert correct(asked) == meant


@pytest.mark.parametrize(
    "asked",
    [
        "The mayor of Danielle Darrieux",  # nothing to correct
        "The mayor of Danielle Darirxeu",  # several slips
        "The mayor of Adnielle Darrieux",  # its first letter
        "The mayor of Danielle Darrieuz",  # and its last
        "The mayor of Daneille Darreiux",  # neither is as it should be
        "The mayor of Lars Pedersen",  # another letter: another name
        "The mayor of Martin County",  # a word of its own: one token
        "The mayor of Saint Paula",
        "The mayor of The Shinning",  # an article vouches for nothing
        "Asteroid 20211",
        "Bowl XXIIII",
        "The mayor of Triana",  # no other word speaks for Tirana
        "",
    ],
)
def test_other_words_stay(asked: str) -> None:
    assert correct(asked) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("darrieux", True),
        ("müller", True),
        ("иванова", True),
        ("paul", False),
        ("xxiii", False),
        ("市立第一中学校", False),
    ],
)
def test_only_long_words_of_letters_with_capitals_are_corrected(word: str, expected: bool) -> None:
    assert is_correctable(word) == expected


def test_a_word_of_another_edit_is_no_slip() -> None:
    keys = make_keys()
    add_key(keys, "Danielle Darieux", 7)
    assert correct("The mayor of Danielle Darieux", Spelling(TOKENIZER, keys)) is None


def test_later_keys_are_seen_and_dropped_ones_are_not() -> None:
    keys = make_keys()
    spelling = Spelling(TOKENIZER, keys)
    assert correct("Emilio Lusssu", spelling) is None
    add_key(keys, "Emilio Lussu", 20)
    assert correct("Emilio Lusssu", spelling) == "Emilio Lussu"
    keys.remove(keys.subspaces == 20)
    assert correct("Emilio Lusssu", spelling) is None


def test_of_two_near_names_the_one_whose_subject_is_named_is_meant() -> None:
    keys = make_keys()
    add_key(keys, "Ellen Karlsen", 20)
    add_key(keys, "Otto Kaarsen", 21)
    assert correct("Ellen Karsen", Spelling(TOKENIZER, keys)) == "Ellen Karlsen"
    assert correct("Otto Karsen", Spelling(TOKENIZER, keys)) == "Otto Kaarsen"


def test_special_tokens_stay_and_their_names_stay_text() -> None:
    end = torch.tensor([TOKENIZER.eos_token_id])
    query = torch.cat([end, encode("Danielle Darreiux"), end])
    found = Spelling(TOKENIZER, make_keys()).correct(query)
    assert found is not None
    assert found.tolist() == torch.cat([end, encode("Danielle Darrieux"), end]).tolist()
    named = torch.tensor(TOKENIZER("</s> Danielle Darreiux", split_special_tokens=True).input_ids)
    found = Spelling(TOKENIZER, make_keys()).correct(named)
    assert found is not None
    assert TOKENIZER.eos_token_id not in found.tolist()


def naive_slips(word: str, alphabet: str) -> set[str]:
    """All that one slip inside of a word makes of it."""
    inner = range(1, len(word) - 1)
    less = {word[:i] + word[i + 1 :] for i in inner}
    more = {word[:i] + letter + word[i:] for i in range(1, len(word)) for letter in alphabet}
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in inner if i + 1 in inner}
    return (less | more | swapped) - {word}


@given(st.text("abc", min_size=5, max_size=8), st.text("abc", min_size=5, max_size=8))
def test_slips_are_those_that_can_be_made(word: str, name: str) -> None:
    assert is_slip(word, name) == (word in naive_slips(name, "abc"))


@given(st.text("abc", min_size=5, max_size=8), st.integers(0, 1000))
def test_a_slip_shares_a_shortened_form(name: str, seed: int) -> None:
    slips = sorted(naive_slips(name, "abc"))
    assert shorten(random.Random(seed).choice(slips)) & shorten(name)  # noqa: S311  no secret


def test_the_router_takes_a_misspelt_name_for_the_edited_one() -> None:
    table = torch.randn(len(TOKENIZER), 256, generator=torch.Generator().manual_seed(0))
    keys = make_keys()
    calibration = torch.arange(len(TOKENIZER))
    space = TokenSpace(table, calibration)
    with_spelling, without = (Router(space, keys, 0.8, 0.07, spelling=one) for one in (Spelling(TOKENIZER, keys), None))
    asked = encode("The mayor of Gertrude Darriex"), encode("The mayor of Danielle Darriex")
    assert [int(with_spelling.route(one[None])) for one in asked] == [UNEDITED, 0]
    assert [int(without.route(one[None])) for one in asked] == [UNEDITED, UNEDITED]
