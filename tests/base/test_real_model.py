"""The embedded default model end to end; needs a package index once, then half a gigabyte of cache."""

import time

import pytest
import torch

from case_lightning.base import DEFAULT_MODEL, Base, fingerprint, load_base
from case_lightning.base.checkpoint import read_tokenizer
from case_lightning.base.embedded import EMBEDDED_MODELS

pytestmark = pytest.mark.real_model
FINGERPRINT = "90364bd5fb7ab1be-0662adaec9eb7e8cfc318222990e7f6c"
TEXTS = [
    "The capital of France is",
    "Hello  world\n\n  x",
    "naïve café — 東京 🙂",
    "<|im_start|>user\nhi<|im_end|>\n",
    "def f(x):\n\treturn x , 12345.67 .",
    " don't  ",
]


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(DEFAULT_MODEL, device="cpu")


def test_it_knows_the_capital_of_france(base: Base) -> None:
    with torch.no_grad():
        logits = base.model(**base.tokenizer("The capital of France is", return_tensors="pt")).logits
    assert base.tokenizer.decode(logits[0, -1].argmax()) == " Paris"


def test_its_sizes_and_fingerprint_are_known(base: Base) -> None:
    found = base.architecture
    assert (found.n_layers, found.d_in, found.d_out, found.default_layer) == (30, 1536, 576, 24)
    assert base.model.dtype == torch.float32
    assert base.fingerprint == FINGERPRINT
    assert base.model.name_or_path == base.name == DEFAULT_MODEL


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_tokenizer(base: Base, text: str) -> None:
    assert base.tokenizer.decode(base.tokenizer(text).input_ids) == text


def test_the_tokenizer_is_the_gguf_files(base: Base) -> None:
    source = read_tokenizer(str(EMBEDDED_MODELS[DEFAULT_MODEL].gguf_path))
    assert base.tokenizer(TEXTS).input_ids == source(TEXTS).input_ids
    assert base.tokenizer.chat_template == source.chat_template


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("in 1997", ["in", " ", "1", "9", "9", "7"]),
        ("   12", ["   ", "1", "2"]),
        ("a\n\n10.", ["a", "\n\n", "1", "0", "."]),
    ],
)
def test_digits_are_set_apart_as_in_pretraining(base: Base, text: str, pieces: list[str]) -> None:
    assert [base.tokenizer.decode(token) for token in base.tokenizer(text).input_ids] == pieces


def test_special_tokens_and_chat_template_are_set(base: Base) -> None:
    tokenizer = base.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer("Paris").input_ids == tokenizer("Paris", add_special_tokens=False).input_ids
    chat = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def test_the_fingerprint_takes_less_than_half_a_second(base: Base) -> None:
    start = time.perf_counter()
    fingerprint(base.model)
    assert time.perf_counter() - start < 0.5


def test_writing_into_the_loaded_model_leaves_the_cache_alone(base: Base) -> None:
    """Weights are mapped from the cached file; an edit in place must stay private to the process."""
    other = load_base(DEFAULT_MODEL, device="cpu")
    with torch.no_grad():
        other.model.get_submodule(other.architecture.down_projections[0]).weight.zero_()
    assert fingerprint(other.model) != FINGERPRINT
    assert load_base(DEFAULT_MODEL, device="cpu").fingerprint == FINGERPRINT
