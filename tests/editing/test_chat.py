"""Edits that are fitted in the tokenizer's chat template, too."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from case_lightning.base import Base
from case_lightning.editing.batches import choose_wording
from case_lightning.editing.editor import Editor, put_adapter
from case_lightning.editing.encoding import encode, encode_chat
from case_lightning.errors import ConfigError
from tests.editing.tiny_run import build_tokenizer, load_tiny, make_edits, make_settings

TEMPLATE = "{% for turn in messages %}<s> {{ turn.content }} {% endfor %}{% if add_generation_prompt %}</s> {% endif %}"
EDIT = make_edits(2)[1]


def load(model: Path, template: str | None) -> Base:
    base = load_tiny(model)
    base.tokenizer.chat_template = template
    return base


def build(base: Base, **training: object) -> Editor:
    settings = make_settings("", training=training)
    return Editor(base, put_adapter(base, settings), settings)


@pytest.mark.parametrize(("end", "tail"), [(False, []), (True, ["</s>"])])
def test_a_turn_brings_the_templates_special_tokens_and_no_others(end: bool, tail: list[str]) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    encoded = encode_chat(tokenizer, EDIT.prompt, EDIT.target, end)
    expected = ["<s>", *EDIT.prompt.split(), "</s>"]
    assert tokenizer.convert_ids_to_tokens(encoded.prompt.tolist()) == expected
    assert tokenizer.convert_ids_to_tokens(encoded.labels.tolist()) == [*EDIT.target.split(), *tail]


@pytest.mark.parametrize("n_variants", [0, 3])
def test_each_kind_of_wording_is_seen_equally_often(tiny_model: Path, n_variants: int) -> None:
    base = load(tiny_model, TEMPLATE)
    (prepared,) = build(base, chat=True, n_variants=n_variants).prepare([EDIT])
    chat = encode_chat(base.tokenizer, EDIT.prompt, EDIT.target, end=True)
    assert torch.equal(prepared.text.encoded.tokens, encode(base.tokenizer, EDIT.prompt, EDIT.target, end=True).tokens)
    assert torch.equal(prepared.chats[0].encoded.tokens, chat.tokens)
    seen = Counter(id(choose_wording(prepared, step / 900)) for step in range(900))
    n_kinds = 3 if n_variants else 2
    assert seen[id(prepared.text)] == seen[id(prepared.chats[0])] == 900 // n_kinds
    for variant in prepared.variants:
        assert seen[id(variant)] == pytest.approx(300 / len(prepared.variants), abs=1)
    (without,) = build(load(tiny_model, TEMPLATE), n_variants=n_variants).prepare([EDIT])
    assert (len(without.variants), without.chats) == (len(prepared.variants), ())


def test_a_chat_that_the_model_has_no_room_for_is_left_out(tiny_model: Path) -> None:
    base = load(tiny_model, TEMPLATE)
    editor = build(base, chat=True, n_variants=0)
    edits = make_edits(2)
    long = replace(edits[0], prompt=" ".join([edits[0].prompt] * 10))
    room = len(encode_chat(base.tokenizer, long.prompt, long.target, end=True).tokens)
    base.model.config.max_position_embeddings = room - 1
    prepared = editor.prepare([long, edits[1]])
    assert [len(one.chats) for one in prepared] == [0, 1]
    own = encode_chat(base.tokenizer, edits[1].prompt, edits[1].target, end=True)
    assert torch.equal(prepared[1].chats[0].encoded.tokens, own.tokens)
    base.model.config.max_position_embeddings = room
    assert [len(one.chats) for one in editor.prepare([long, edits[1]])] == [1, 1]


def test_a_tokenizer_without_a_template_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"training.chat: the tokenizer of .* has no chat template"):
        build(load(tiny_model, None), chat=True)
