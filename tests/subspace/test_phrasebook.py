"""Common questions: which texts ask the same of a name, which do not, and what the router makes of it."""

import time

import pytest
import torch

from case_lightning.subspace import UNEDITED, Router, TokenSpace
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.phrasebook import NAME, Phrasebook, read_phrasebook, simplify
from case_lightning.subspace.topics import Topics
from tests.subspace.test_spelling import TOKENIZER, encode

BOOK = read_phrasebook()


def find(text: str) -> frozenset[int]:
    return BOOK.find(*text.split(NAME, 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who is the chief executive of {}?", "The CEO of {} is"),
        ("Who is the chief executive of {}?", "who runs {}"),
        ("Who is the chief executive of {}?", "{}'s current CEO is"),
        ("Who is the chief executive of {}?", "{} is led by"),
        ("Who is the chief executive of {}?", "Can you please tell me who the CEO of {} is?"),
        ("Where was {} born?", "{}\u2019s birthplace was"),
        ("Where was {} born?", "What's the birthplace of {}?"),
        ("What is the price of {}?", "How much does the {} laptop cost?"),
        ("What is the capital of {}?", "The capital of the province of {} is"),
        ("What is the return policy of {}?", "{}' return policy is"),
        ("What is the height of {}?", "We flew there. It was late! How tall is {}? And what next?"),
        ("What is the height of {}?", "Question: How tall is {}?\nAnswer:"),
    ],
)
def test_same(one: str, other: str) -> None:
    assert find(one) & find(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who is the president of {}?", "Who is the prime minister of {}?"),
        ("Who is the president of {}?", "What is the capital of {}?"),
        ("What is the tallest building in {}?", "The oldest building in {} is"),
        ("When was {} born?", "Where was {} born?"),
        ("When was {} born?", "When did {} die?"),
        ("Who wrote {}?", "When was {} published?"),
        ("How much does {} cost?", "How heavy is {}?"),
    ],
)
def test_different(one: str, other: str) -> None:
    assert find(one)
    assert find(other)
    assert not find(one) & find(other)


@pytest.mark.parametrize(
    "text", ["{}", "Wer regiert {}?", "Was {} ever sold by a one-eyed captain?", "The {}", "{}. ?"]
)
def test_unknown(text: str) -> None:
    assert find(text) == frozenset()


def test_words_that_are_no_kind_of_thing_do_not_belong_to_a_name() -> None:
    assert find("Where is the city of {}?") == find("Where is {}?")
    assert find("Where is the cradle of {}?") == frozenset()


def test_every_saying_asks_what_it_stands_for() -> None:
    assert len(BOOK) > 200
    for topic in range(len(BOOK)):
        assert BOOK.say(topic), topic
        for saying in BOOK.say(topic):
            assert saying.count(NAME) == 1, saying
            assert topic in find(saying), saying


def test_questions_have_their_mark_and_statements_none() -> None:
    sayings = Phrasebook("town\nWho is; boss; Who runs {}; In which town is {}; {} is run by\n").say(0)
    assert sayings == (
        "Who runs {}?",
        "In which town is {}?",
        "{} is run by",
        "Who is the boss of {}?",
        "The boss of {} is",
        "Who is {}'s boss?",
        "{}'s boss is",
    )


def test_a_run_of_marks_takes_no_time() -> None:
    started = time.perf_counter()
    find("." * 100_000 + "x {} is")
    assert time.perf_counter() - started < 5  # quadratic, it takes minutes


def test_simplify() -> None:
    assert (
        simplify("What's the height of {}?")
        == simplify("what WAS height of {}")
        == ("what", "is", "height", "of", "{}")
    )


def build_router(*prompts: tuple[str, str]) -> Router:
    """A router whose states and words never tell; of prompts and their subjects, a subspace each."""
    keys = RouterKeys()
    for subspace, (prompt, subject) in enumerate(prompts):
        before, behind = (encode(part) for part in prompt.split(subject))
        named = encode(subject)
        tokens = torch.cat([before, named, behind])
        place = torch.arange(len(tokens))
        marks = (place >= len(before)) & (place < len(before) + len(named))
        keys.add(tokens, marks, subspace)
        keys.add(torch.cat([named, before, behind]), place < len(named), subspace)
    table = torch.eye(len(TOKENIZER))
    return Router(TokenSpace(table, torch.arange(len(table))), keys, 0.8, 0.3, topics=Topics(TOKENIZER, keys, BOOK))


PROMPTS = (("Who is the mayor of Marin?", "Marin"), ("What is the area of Marin?", "Marin"))


@pytest.mark.parametrize(
    ("query", "route"),
    [
        ("The head of Marin is", 0),
        ("Who runs Marin?", 0),
        ("How big is Marin?", 1),
        ("Marin covers an area of", 1),
        ("Who is the captain of Marin?", UNEDITED),
        ("It is late. Who runs Marin? I know.", 0),
    ],
)
def test_router(query: str, route: int) -> None:
    assert build_router(*PROMPTS).route(encode(query)[None]).tolist() == [route]


def test_keys_that_come_and_go_are_seen() -> None:
    router = build_router(*PROMPTS)
    assert router.route(encode("Who runs Marin?")[None]).tolist() == [0]
    router.keys.remove(torch.tensor([True, True, False, False]))
    assert router.route(encode("Who runs Marin?")[None]).tolist() == [UNEDITED]


def test_what_was_read_is_lent_and_nothing_is_left_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    find = Phrasebook.find
    monkeypatch.setattr(Phrasebook, "find", lambda book, *parts: read.append("".join(parts)) or find(book, *parts))
    first, second = build_router(*PROMPTS), build_router(*PROMPTS)
    first.warm_up()
    assert len(read) == 4  # two forms of each
    second.topics = Topics(TOKENIZER, second.keys, BOOK, first.topics)
    second.warm_up()
    assert len(read) == 4
    assert second.route(encode("The head of Marin is")[None]).tolist() == [0]
    assert len(read) == 5 or set(read[4:]) == {read[4]}  # the query alone


def test_a_key_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    find = Phrasebook.find
    monkeypatch.setattr(Phrasebook, "find", lambda book, *parts: read.append("".join(parts)) or find(book, *parts))
    router = build_router(*PROMPTS)
    counts = []
    for _ in range(3):
        read.clear()
        router.route(encode("The head of Marin is")[None])
        counts.append(len(read))
    assert counts == [counts[2] + 4, counts[2], counts[2]]
    router.keys.add(encode("Marin is"), torch.tensor([True] * len(encode("Marin")) + [False]), 2)
    read.clear()
    router.route(encode("The head of Marin is")[None])
    assert len(read) <= counts[2] + 2  # the new key, and the query beside it
