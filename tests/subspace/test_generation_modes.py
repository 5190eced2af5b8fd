"""Every mode of `generate`: no row depends on its neighbours, and one that no edit covers keeps all its bits."""

import copy
from threading import Thread

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, TextIteratorStreamer, pipeline

from tests.base.tiny_models import build_tokenizer
from tests.subspace.test_generation import GREEDY, NEW, PROMPTS, ROUTES, generate, generate_naively, pad
from tests.subspace.tiny_adapters import OTHER, PROMPT, SUBJECT, UNRELATED, build_adapter, build_base

STATIC = {"cache_implementation": "static", "disable_compile": True}
MODES = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": STATIC,
    "chunked prefill": {"prefill_chunk_size": 3},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 2.0},
    "several samples": {"do_sample": True, "temperature": 2.0, "num_return_sequences": 2},
}
DRAFTS = {
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "assistant": {"assistant_model": build_base(seed=1)},
    "the unedited model as the assistant": {"assistant_model": build_base()},
}
TEMPLATE = (
    "{% for turn in messages %}{{ 'w60 ' if turn.role == 'user' else 'w61 ' }}{{ turn.content }} {% endfor %}"
    "{% if add_generation_prompt %}w61{% endif %}"
)


def answer(model: PeftModel | PreTrainedModel, batch: dict[str, Tensor], **settings: object) -> tuple[Tensor, Tensor]:
    """The new tokens, `(rows, NEW)`, and the logits that they were chosen by, `(rows, NEW, vocabulary)`."""
    config = GenerationConfig(
        **GREEDY | settings, eos_token_id=2, output_logits=True, return_dict_in_generate=True, bos_token_id=1
    )
    torch.manual_seed(0)
    found = model.generate(**batch, generation_config=config)
    return found.sequences[:, batch["input_ids"].shape[1] :], torch.stack(found.logits, dim=1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_a_row_that_no_edit_covers_is_the_unedited_models_to_the_bit(mode: str, side: str) -> None:
    batch = pad(PROMPTS, side)
    tokens, logits = answer(build_adapter(build_base()), batch, **MODES[mode])
    frozen = build_base().requires_grad_(False)  # as `load_base` leaves it: torch multiplies in another way otherwise
    unedited, expected = answer(frozen, batch, **MODES[mode])
    covered = ROUTES.repeat_interleave(len(tokens) // len(ROUTES)) >= 0
    assert torch.equal(tokens[~covered], unedited[~covered])
    assert (tokens[covered] != unedited[covered]).any()
    covered = ROUTES.repeat_interleave(len(logits) // len(ROUTES)) >= 0
    assert torch.equal(logits[~covered].view(torch.int32), expected[~covered].view(torch.int32))
    assert (logits[covered, 0] != expected[covered, 0]).any(1).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", [mode for mode, settings in MODES.items() if "do_sample" not in settings])
def test_a_rows_logits_depend_on_its_neighbours_only_within_float_tolerance(mode: str, side: str) -> None:
    model, batch = build_adapter(build_base()), pad(PROMPTS, side)
    tokens, logits = answer(model, batch, **MODES[mode])
    for row in range(len(PROMPTS)):
        alone, expected = answer(model, {name: part[[row]] for name, part in batch.items()}, **MODES[mode])
        assert torch.equal(tokens[[row]], alone)
        each = len(expected)
        torch.testing.assert_close(logits[row * each : (row + 1) * each], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("prompt", [0, 1, 2], ids=["edited", "another edit", "unedited"])
def test_drafted_tokens_are_those_of_plain_decoding(draft: str, prompt: int) -> None:
    model = build_adapter(build_base())
    expected = [generate_naively(model, PROMPTS[prompt], int(ROUTES[prompt]))]
    config = GenerationConfig(**GREEDY, eos_token_id=2)
    found = model.generate(**pad([PROMPTS[prompt]], "left"), generation_config=config, **DRAFTS[draft])
    assert found[:, len(PROMPTS[prompt]) :].tolist() == expected


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_a_prompt_in_chunks_is_routed_by_all_of_it(width: int) -> None:
    model, batch = build_adapter(build_base()), pad(PROMPTS, "left")
    assert torch.equal(generate(model, batch, prefill_chunk_size=width), generate(model, batch))


def test_a_seed_gives_its_samples_again() -> None:
    model, batch = build_adapter(build_base()), pad(PROMPTS, "left")
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(generate(model, batch, do_sample=True, temperature=2.0))
    assert torch.equal(samples[0], samples[1])
    assert (samples[0] != samples[2]).any(1).all()


@pytest.mark.parametrize("prompt", [PROMPT, UNRELATED], ids=["edited", "unedited"])
def test_streamed_text_is_the_answer(prompt: list[int]) -> None:
    model, tokenizer = build_adapter(build_base()), build_tokenizer(pad_token="<pad>", eos_token="</s>")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    batch = pad([prompt], "left")
    settings = {**batch, "generation_config": GenerationConfig(**GREEDY, eos_token_id=2), "streamer": streamer}
    thread = Thread(target=model.generate, kwargs=settings)
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert len([piece for piece in pieces if piece.strip()]) == NEW
    assert tokenizer("".join(pieces)).input_ids == generate(model, batch)[0].tolist()


@pytest.mark.parametrize("question", [PROMPT, UNRELATED], ids=["edited", "unedited"])
def test_a_third_turn_in_a_chat_template(question: list[int]) -> None:
    model, base = build_adapter(build_base(), task_type="CAUSAL_LM"), build_base()
    tokenizer = build_tokenizer(pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    words = tokenizer.decode
    turns = [("user", [50, 51]), ("assistant", [52]), ("user", [53]), ("assistant", [54]), ("user", question)]
    chat = [{"role": role, "content": words(tokens)} for role, tokens in turns]
    tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert tokens == [60, 50, 51, 61, 52, 60, 53, 61, 54, 60, *question, 61]
    (found,) = pipeline("text-generation", model=model, tokenizer=tokenizer)(chat, **GREEDY)
    expected = generate_naively(model, tokens, 0 if question == PROMPT else -1)
    assert found["generated_text"][-1]["content"].strip() == words(expected, skip_special_tokens=True)
    unedited = generate(base, pad([tokens], "left"))[0].tolist()
    assert (expected == unedited) == (question == UNRELATED)


@pytest.mark.parametrize("padding", [0, 3], ids=["token 0", "the pad token"])
def test_without_a_mask_the_padding_at_a_rows_end_is_no_text(padding: int) -> None:
    """As evaluation harnesses feed right-padded rows; the last edit asks about what the padding says."""
    model = build_adapter(build_base())
    model.get_base_model().config.pad_token_id = padding
    keys = model.base_model.case_layer.adapter.keys
    keys.add(torch.tensor([*SUBJECT, padding]), torch.tensor([True, True, False]), 1)
    rows = torch.full((3, 8), padding)
    for row, prompt in enumerate((SUBJECT, PROMPT, UNRELATED)):
        rows[row, : len(prompt)] = torch.tensor(prompt)
    unedited = build_base()(input_ids=rows).logits
    with torch.no_grad():
        found = model(input_ids=rows).logits
        with model.base_model.forced_routes(torch.tensor([-1, 0, -1])):
            assert torch.equal(found, model(input_ids=rows).logits)
        named = copy.deepcopy(rows)
        named[0, 4] = 40  # a token after it: no padding any more
        assert not torch.equal(model(input_ids=named).logits[0], build_base()(input_ids=named).logits[0])
    assert torch.equal(found[[0, 2]], unedited[[0, 2]])


def test_a_batch_of_several_conversations_is_routed_row_by_row() -> None:
    model = build_adapter(build_base())
    chats = [[60, 50, 61, 51, 60, *PROMPT, 61], [60, *UNRELATED, 61], [60, 52, 61, 53, 60, *OTHER, 61]]
    expected = [generate_naively(model, chat, route) for chat, route in zip(chats, (0, -1, 1), strict=True)]
    assert generate(model, pad(chats, "left")).tolist() == expected
