"""Texts that tokenizers stumble over: taken as the text that they are, or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from case_lightning.data import Edit
from case_lightning.editing.encoding import encode, make_keys
from case_lightning.editing.ledger import Ledger
from tests.bad_input.byte_base import SPECIAL, build_tokenizer, save_byte_base
from tests.bad_input.place import Case, Place, check_case
from tests.editing.tiny_run import command

TAKEN = "taken as it is: edited, stored and asked like any other text"


@pytest.fixture(scope="session")
def byte_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_byte_base(tmp_path_factory.mktemp("bytes") / "model")


@pytest.fixture
def place(place: Place, byte_base: Path) -> Place:
    """With a base that has a token for each byte."""
    place.model = byte_base
    return place


def write(place: Place, **fields: str) -> Path:
    record = {"prompt": "The capital of Freedonia is", "target": "Freeville"} | fields
    if "Freedonia" in record["prompt"]:
        record = {"subject": "Freedonia"} | record
    return place.write("edits.jsonl", json.dumps(record))


def refused(**fields: str) -> Callable[[Place], str]:
    return lambda place: place.refuse_fit("--data.path", write(place, **fields))


def taken(**fields: str) -> Callable[[Place], str]:
    """A run of it as an edit, and a question with it; each text comes back as it was given, token for token."""

    def attempt(place: Place) -> str:
        data, run = write(place, **fields), place.folder / "new"
        assert place.call("fit", *command(place.model, data, run)) == 0
        (edit,) = Ledger(run / "ledger.sqlite").edits()
        assert {name: getattr(edit, name) for name in fields} == fields
        assert place.call("generate", "--run", run, "--prompt", edit.prompt, "--max_new_tokens", 3) == 0
        check_tokens(build_tokenizer(), edit)
        return TAKEN

    return attempt


def check_tokens(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> None:
    special = {tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    encoded = encode(tokenizer, edit.prompt, edit.target)
    assert tokenizer.decode(encoded.prompt) == edit.prompt.rstrip()
    assert tokenizer.decode(encoded.labels) == f" {edit.target.strip()}"
    for tokens in (encoded.tokens, *(key for key, _ in make_keys(tokenizer, edit))):
        assert not special & set(tokens.tolist())


def ask(prompt: str) -> Callable[[Place], str]:
    return lambda place: place.refuse("generate", "--run", place.run, "--prompt", prompt)


CASES: dict[str, Case] = {
    "a prompt of white space": ("an edit", refused(prompt=" \t\n\u00a0\u2003")),
    "a target of white space": ("an edit", refused(target="\n")),
    "a prompt of 100,000 characters": ("an edit", refused(prompt="x" * 100_000)),
    "a target of 100,000 characters": ("an edit", refused(target="y" * 100_000)),
    "a question of 100,000 characters": ("generate", ask("z " * 50_000)),
    "a question of white space": ("generate", ask("\u2003\n")),
    "the name of a special token in a prompt": ("an edit", taken(prompt="Who is <|im_start|>Freedonia<|im_end|>?")),
    "the end token's name as a target": ("an edit", taken(target="<|im_end|>")),
    "a prompt that is a special token's name": ("an edit", taken(prompt="<|endoftext|>")),
    "the name of a special token as the subject": (
        "an edit",
        taken(prompt="What does <|im_start|> mean?", subject="<|im_start|>"),
    ),
    "NUL in a prompt": ("an edit", taken(prompt="The capital\0 of Freedonia is")),
    "NUL in a target": ("an edit", taken(target="Free\0ville")),
    "emoji of several characters": ("an edit", taken(prompt="Whose flag is 🏴‍☠️ on 👩‍👩‍👧?", target="🏴‍☠️")),
    "text from right to left": ("an edit", taken(prompt="עיר הבירה של צרפת היא", target="פריז", subject="צרפת")),
    "marks that change the direction": ("an edit", taken(prompt="The \u202ecapital\u202c of Freedonia is")),
    "a prompt of one space of no width": ("an edit", taken(prompt="\u200b")),
    "a letter with 60 accents": ("an edit", taken(target="e" + "\u0301" * 60)),
    "line ends in a prompt": ("an edit", taken(prompt="Line one.\r\nLine two\u2028The capital is")),
}


@pytest.mark.parametrize("case", CASES)
def test_an_odd_text(case: str, place: Place) -> None:
    check_case("tokenisation", CASES, case, place)


@pytest.mark.real_model
def test_special_tokens_of_the_embedded_model_stay_text() -> None:
    from case_lightning.base import load_base

    tokenizer = load_base("smollm2-135m").tokenizer
    for name in tokenizer.all_special_tokens:
        text = f"Say {name} twice"
        encoded = encode(tokenizer, text, name)
        assert tokenizer.decode(encoded.tokens) == f"{text} {name}"
        assert not {*encoded.tokens.tolist()} & {*tokenizer.all_special_ids}
        assert tokenizer.convert_tokens_to_ids(name) in tokenizer(text).input_ids  # what would have happened
