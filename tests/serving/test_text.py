"""Text as tokens come, and how tokens are chosen."""

from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from case_lightning.serving.sampling import Sampling, choose_token
from case_lightning.serving.text import TextStream


@pytest.fixture(scope="module")
def by_bytes() -> PreTrainedTokenizerFast:
    """A tokenizer of one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({one: index for index, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def stream(tokenizer: PreTrainedTokenizerFast, text: str, stop: tuple[str, ...] = (), strip: bool = False) -> list[str]:
    found = TextStream(tokenizer, stop, strip)
    pieces = []
    for token in tokenizer(text).input_ids:
        pieces.append(found.push(token))
        if found.stopped:
            break
    return [*pieces, found.finish()]


@pytest.mark.parametrize(
    ("text", "stop", "strip", "whole"),
    [
        ("plain words", (), False, "plain words"),
        ("Dvořák, 東京, 🙂", (), False, "Dvořák, 東京, 🙂"),
        ("  led by blanks", (), True, "led by blanks"),
        ("one\n\ntwo", ("\n\n",), False, "one"),
        ("one\ntwo", ("\n\n",), False, "one\ntwo"),
        ("ends with a beginning \n", ("\n\n",), False, "ends with a beginning \n"),
        ("aab", ("ab", "b"), False, "a"),
        ("stop at once", ("s",), False, ""),
    ],
)
def test_pieces_make_the_text(
    by_bytes: PreTrainedTokenizerFast, text: str, stop: tuple[str, ...], strip: bool, whole: str
) -> None:
    pieces = stream(by_bytes, text, stop, strip)
    assert "".join(pieces) == whole
    assert not any("\ufffd" in piece for piece in pieces)
    assert max(map(len, pieces), default=0) <= 2 or stop


def test_a_long_stop_text_costs_no_more_than_the_answer_is_long(by_bytes: PreTrainedTokenizerFast) -> None:
    class Counted(str):
        sliced = 0

        def __getitem__(self, key: slice) -> str:  # type: ignore[override]
            Counted.sliced += 1
            return str.__getitem__(self, key)

    stream(by_bytes, "short", (Counted("x" * 100_000),))
    assert 0 < Counted.sliced <= 15


def test_next_to_no_temperature_is_none() -> None:
    sampling = Sampling(1e-320, 1.0, 0)
    assert choose_token(torch.tensor([0.0, 3.0, 1.0]), sampling, sampling.make_generator()) == 1


def test_the_likeliest_token_is_taken() -> None:
    assert choose_token(torch.tensor([0.0, 3.0, 1.0]), Sampling(), Sampling().make_generator()) == 1


@pytest.mark.parametrize(
    ("temperature", "top_p", "kept"), [(1.0, 1.0, 4), (1.0, 0.7, 2), (1.0, 1e-9, 1), (2.0, 0.8, 3)]
)
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float, top_p: float, kept: int) -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    sampling = Sampling(temperature, top_p, seed=0)
    generator = sampling.make_generator()
    counts = Counter(choose_token(logits, sampling, generator) for _ in range(4000))
    likely = [2.718281828 ** (value / temperature) for value in logits.tolist()]
    order = sorted(range(4), key=lambda index: -likely[index])[:kept]  # the fewest that reach top_p together
    assert sum(likely[i] for i in order) / sum(likely) >= top_p - 1e-6
    assert set(counts) == set(order)
    for index in order:
        assert counts[index] / 4000 == pytest.approx(likely[index] / sum(likely[i] for i in order), abs=0.03)
