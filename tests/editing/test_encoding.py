import re
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from case_lightning.data import Edit
from case_lightning.data.subjects import find_subject
from case_lightning.editing.encoding import (
    KEPT,
    encode,
    encode_answer,
    encode_prompt,
    make_keys,
    mark_start,
)
from case_lightning.editing.variation import LONGEST, find_rivals, split_units, vary_prompt
from case_lightning.subspace.router import read_ordinary_lines
from tests.editing.tiny_run import build_tokenizer, make_edits

TOKENIZER = build_tokenizer()
EDIT = make_edits(1)[0]


def build_words() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of the tests below, in both cases."""
    known = ["The", "capital", "of", "Oslo", "is", "Is", "Oslo?", "?", "US", "the", "us"]
    known += [f"w{index}" for index in range(50)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(known + [word.lower() for word in known]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


WORDS = build_words()


def make_edit(prompt: str, subject: str | None, edit_id: str = "1") -> Edit:
    return Edit(id=edit_id, prompt=prompt, target="old", subject=subject)


def words(tokens: torch.Tensor) -> list[str]:
    return TOKENIZER.convert_ids_to_tokens(tokens.tolist())


@pytest.mark.parametrize(("end", "tail"), [(False, ["old", "Freeville"]), (True, ["old", "Freeville", "</s>"])])
def test_every_label_is_the_token_after_its_column(end: bool, tail: list[str]) -> None:
    encoded = encode(TOKENIZER, "The capital of Freedonia is", "old Freeville", end)
    assert words(encoded.tokens) == ["The", "capital", "of", "Freedonia", "is", *tail]
    assert encoded.n_prompt == 5
    assert words(encoded.labels) == tail
    assert torch.equal(encoded.tokens[encoded.columns + 1], encoded.labels)
    assert encoded.columns[0] == 4


@pytest.mark.parametrize("prompt", ["The capital is", "The capital is ", "The capital is \n"])
def test_white_space_at_the_end_of_a_prompt_is_left_off(prompt: str) -> None:
    assert words(encode_prompt(TOKENIZER, prompt)) == ["The", "capital", "is"]


@pytest.mark.parametrize(("scheme", "pieces"), [("always", ["▁", "7"]), ("never", ["▁", "7"])])
def test_an_answer_follows_exactly_one_space(scheme: str, pieces: list[str]) -> None:
    """LLaMA-2's kind puts a space before any text, others do not; two spaces are one piece of both."""
    backend = Tokenizer(models.BPE({"▁": 0, "7": 1, "▁▁": 2}, [("▁", "▁")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.normalizer = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer.convert_ids_to_tokens(encode_answer(tokenizer, " 7 ").tolist()) == pieces


def test_an_answer_that_opens_with_a_digit_keeps_its_space() -> None:
    """A tokenizer that sets digits apart gives the space before them a token of its own."""
    backend = Tokenizer(models.BPE({"Ġ": 0, "4": 1, "2": 2}, []))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer.convert_ids_to_tokens(encode_answer(tokenizer, "42").tolist()) == ["Ġ", "4", "2"]


@pytest.mark.parametrize(
    ("prompt", "subject", "found"),
    [
        ("The capital of Freedonia is", "Freedonia", "Freedonia"),
        ("The capital of freedonia is", "Freedonia", "freedonia"),
        ("The capital of Freedonia is", " Freedonia ", "Freedonia"),
        ("Is Brussels in the US?", "US", "US"),
        ("Is Brussels in the us?", "US", "us"),
        ("Us in the US", "US", "US"),
        ("the Freedonians are", "Freedonia", "Freedonia"),
        ("İİİ is the capital of Freedonia", "Freedonia", "Freedonia"),
        ("Who is C++ (language) by?", "C++ (language)", "C++ (language)"),
        ("The capital is", "Freedonia", None),
        ("The capital is", None, None),
        ("The capital is", "  ", None),
    ],
)
def test_where_the_subject_is_named(prompt: str, subject: str | None, found: str | None) -> None:
    place = find_subject(prompt, subject)
    assert (prompt[slice(*place)] if place else None) == found


def read_keys(edit: Edit) -> list[str]:
    """Each key's tokens, those of the subject in brackets."""
    return [
        " ".join(
            f"[{word}]" if mark else word
            for word, mark in zip(WORDS.convert_ids_to_tokens(tokens.tolist()), marks.tolist(), strict=True)
        )
        for tokens, marks in make_keys(WORDS, edit)
    ]


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("The capital of Oslo ", "oslo", ["The capital of [Oslo]", "[Oslo] The capital of"]),
        ("Oslo is", "Oslo", ["[Oslo] is", "is [Oslo]"]),
        ("Is Oslo?", "Oslo", ["Is [Oslo?]", "[Oslo] Is ?"]),
        ("the US is", "US", ["the [US] is", "[US] the is"]),
        ("the capital is", "Oslo", ["the capital is"]),
        ("The capital is", None, ["The capital is"]),
    ],
)
def test_keys_are_the_forms_of_a_prompt(prompt: str, subject: str | None, expected: list[str]) -> None:
    lowered = [form.lower() for form in expected if form.lower() != form]
    assert read_keys(make_edit(prompt, subject)) == expected + ([] if subject == "US" else lowered)


def test_a_passage_leaves_the_subject_and_its_end() -> None:
    passage = " ".join(["Oslo", *(f"w{index}" for index in range(50))])
    (first, *_) = read_keys(make_edit(passage, "Oslo"))
    assert first == " ".join(["[Oslo]", *(f"w{index}" for index in range(50 - KEPT, 50))])


LONG_SUBJECT = make_edit(
    "The first prime minister of the old town of Freedonia and Sylvania hails from", "Freedonia and Sylvania"
)


SENTENCES = {line for line in read_ordinary_lines() if line.endswith((".", "?"))}


def vary(edit: Edit, seeds: int = 60) -> list[tuple[int, str]]:
    """Variants of many seeds: how many sentences stand before each, and what follows them."""
    found = [variant for seed in range(seeds) for variant in vary_prompt(edit, 6, seed)]
    return [cut_sentences(variant) for variant in found]


def cut_sentences(variant: str) -> tuple[int, str]:
    ends = [place for place in range(len(variant)) if variant[:place] in SENTENCES]
    if not ends:
        return 0, variant
    count, rest = cut_sentences(variant[ends[0] + 1 :])
    return count + 1, rest


def test_variants_are_the_same_for_the_same_seed() -> None:
    assert vary_prompt(LONG_SUBJECT, 6, seed=3) == vary_prompt(LONG_SUBJECT, 6, seed=3)
    assert vary_prompt(LONG_SUBJECT, 6, seed=3) != vary_prompt(LONG_SUBJECT, 6, seed=4)


def test_variants_keep_the_subject_whole_and_are_no_copies() -> None:
    found = [text for _, text in vary(LONG_SUBJECT)]
    assert len(found) > 200
    assert all("Freedonia and Sylvania" in variant for variant in found)
    assert any(not variant.endswith("hails from") for variant in found)
    for seed in range(30):
        variants = vary_prompt(EDIT, 20, seed)
        assert EDIT.prompt not in variants
        assert len(set(variants)) == len(variants) <= 20


def test_variants_leave_out_from_nothing_to_all_beside_the_subject() -> None:
    counts = [len(text.split()) for _, text in vary(LONG_SUBJECT)]
    shares = [sum(low <= count < low + 4 for count in counts) / len(counts) for low in (3, 7, 11)]
    assert (min(counts), max(counts)) == (3, len(LONG_SUBJECT.prompt.split()))
    assert min(shares) > 0.2


def test_without_a_subject_most_words_stay() -> None:
    counts = [len(text.split()) for _, text in vary(make_edit(" ".join(f"w{index}" for index in range(30)), None))]
    assert min(counts) > 10
    assert sum(counts) / len(counts) == pytest.approx(21, abs=1)


def test_variants_have_no_words_of_their_own() -> None:
    own = set(LONG_SUBJECT.prompt.split())
    assert all(set(text.split()) <= own for _, text in vary(LONG_SUBJECT))


def test_three_in_ten_variants_stand_behind_up_to_three_sentences() -> None:
    before = [count for count, _ in vary(LONG_SUBJECT)]
    assert set(before) == {0, 1, 2, 3}
    assert sum(count > 0 for count in before) / len(before) == pytest.approx(0.3, abs=0.07)


WHOLE, OWNED = "the head of the Freedonia Inc.", "Freedonia Inc.'s head"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (
            "Who is the head of the Freedonia Inc.?",
            {"The" + WHOLE[3:] + " is", "The" + WHOLE[3:] + " was", f"Tell me {WHOLE}:"}
            | {f"{OWNED} is", f"{OWNED} was", f"Tell me {OWNED}:"},
        ),
        (
            "The head of the Freedonia Inc. is",
            {f"{asks} is {what}?" for asks in ("Who", "What") for what in (WHOLE, OWNED)},
        ),
    ],
)
def test_two_variants_ask_all_in_the_other_form(prompt: str, expected: set[str]) -> None:
    edit = make_edit(prompt, "Freedonia Inc.")
    found = {cut_sentences(variant)[1] for seed in range(200) for variant in vary_prompt(edit, 2, seed)}
    assert found == expected
    assert [len(vary_prompt(edit, count, 0)) for count in (0, 1)] == [0, 1]


def test_a_passage_has_no_variants() -> None:
    assert vary_prompt(make_edit("word " * (LONGEST // 5 + 1), None), 5, 0) == []


def test_units_hold_the_subject_as_one() -> None:
    units = split_units(make_edit("Is Brussels in the US?", "US"))
    assert units == [("Is", False), ("Brussels", False), ("in", False), ("the", False), ("US", True), ("?", False)]


@pytest.mark.parametrize(
    ("prompt", "subject", "start"),
    [
        ("The capital of Oslo is", "Oslo", 3),
        ("The capital of w1 w2 w3 is", "w1 w2 w3", 5),
        ("Oslo is the capital of Oslo", "Oslo", 5),  # the last of two
        ("w1 w2 is w1", "w1 w2", 1),
        ("The capital of oslo is", "Oslo", 3),
        ("The capital of Oslo is", None, 0),
        ("The capital of Oslo is", "US", 0),
    ],
)
def test_an_edit_starts_at_the_last_token_of_its_subject(prompt: str, subject: str | None, start: int) -> None:
    encoded = encode(WORDS, prompt, "w7 w8")
    marked = mark_start(WORDS, encoded, subject)
    assert marked.start == start
    assert torch.equal(marked.tokens, encoded.tokens)


def test_an_edit_does_not_start_within_the_last_character_of_its_subject() -> None:
    """Of a byte-level tokenizer a character may be several tokens."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(sorted(letters))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    marked = mark_start(tokenizer, encode(tokenizer, "In 北京 is", "x"), "北京")
    assert marked.start == len("In 北京".encode()) - 1


def test_no_variant_asks_a_rival() -> None:
    president = make_edit("Who is the President of Freedonia?", "Freedonia")
    rivals = {
        "founder": replace(president, prompt="Who was the founder of Freedonia?", target="rival"),
        "vice": replace(president, prompt="Who is the Vice President of Freedonia?", target="rival"),
    }
    for name, lost in (("founder", {"president"}), ("vice", {"president"})):
        for seed in range(60):
            for _, text in map(cut_sentences, vary_prompt(president, 6, seed, [rivals[name]])):
                assert lost <= set(re.findall(r"\w+", text.lower()))
    for seed in range(60):
        for _, text in map(cut_sentences, vary_prompt(rivals["vice"], 6, seed, [president])):
            assert "vice" in text.lower()
    when = replace(president, prompt="When was Freedonia founded?")
    where = replace(president, prompt="Where was Freedonia founded?", target="rival")
    for asked, rival in ((when, where), (where, when)):
        word = asked.prompt.split()[0].lower()
        texts = [text for seed in range(60) for _, text in map(cut_sentences, vary_prompt(asked, 6, seed, [rival]))]
        assert all(word in re.findall(r"\w+", text.lower()) for text in texts)
        assert texts
    plain = [vary_prompt(president, 6, seed) for seed in range(60)]
    assert [vary_prompt(president, 6, seed, []) for seed in range(60)] == plain
    assert any("president" not in text.lower() for texts in plain for text in texts)


def test_rivals_ask_something_else_of_one_subject_and_want_another_answer() -> None:
    edit = make_edit("The head of Freedonia is", "Freedonia")
    others = [
        replace(edit, id="same question", prompt="The head  of Freedonia is", target="other"),
        replace(edit, id="same answer", prompt="Freedonia is led by"),
        replace(edit, id="rival", prompt="The founder of Freedonia is", subject="freedonia ", target="other"),
        replace(edit, id="other subject", prompt="The head of Sylvania is", subject="Sylvania", target="other"),
        replace(edit, id="no subject", subject=None, target="other"),
    ]
    assert [one.id for one in find_rivals(edit, others)] == ["rival"]
    assert find_rivals(replace(edit, subject=None), others) == []
