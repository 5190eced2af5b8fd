"""An edit acts from where its subject is named on, in one forward, in every mode of generation and in later turns."""

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from tests.subspace.test_generation import NEW, PROMPTS, ROUTES, WAYS, generate, pad
from tests.subspace.test_generation_modes import MODES, answer
from tests.subspace.tiny_adapters import EDITED_FAMILIES, PROMPT, SUBJECT, UNRELATED, build_adapter, build_base

STARTS = torch.tensor([1, 3, 0, 2, 0])  # of PROMPTS: where a subject of two tokens ends
GREEDY_MODES = [name for name, settings in MODES.items() if not settings.keys() & {"do_sample", "num_beams"}]


def build(family: str = "llama", **settings: object) -> PeftModel:
    return build_adapter(build_base(family), from_subject=True, layer=0, **settings)  # the others see what it changes


@torch.no_grad()
def answer_naively(model: PeftModel, prompt: list[int], route: int, start: int) -> tuple[list[int], Tensor]:
    """Greedy tokens and their logits, token by token, the whole text each time, route and start forced."""
    tokens, found = list(prompt), []
    for _ in range(NEW):
        with model.base_model.forced_routes(torch.tensor([route]), torch.tensor([start])):
            found.append(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1])
        tokens.append(int(torch.cat([found[-1][:2], torch.tensor([-torch.inf]), found[-1][3:]]).argmax()))  # no end
    return tokens[len(prompt) :], torch.stack(found)


@pytest.mark.parametrize(
    ("query", "start"),
    [
        (PROMPT, 1),
        ([50, 51, *PROMPT], 3),
        ([20, 21, 22, *SUBJECT], 4),
        ([*PROMPT, 50, *PROMPT], 7),  # named twice
        ([*SUBJECT, 20, 21, 22, SUBJECT[0]], 1),  # half of the name once more
        ([10, 50, 11, 20, 21, 22], 2),  # a word between
        (UNRELATED, 0),
    ],
)
def test_an_edit_begins_where_its_subject_was_last_named(query: list[int], start: int) -> None:
    tokens = torch.tensor([[60, 61, *query]])
    mask = torch.tensor([[0, 0, *[1] * len(query)]])
    assert build().base_model.router.locate(tokens, mask).starts.tolist() == [start + 2]
    assert build_adapter(build_base()).base_model.router.locate(tokens, mask).starts.tolist() == [0]


@pytest.mark.parametrize("family", EDITED_FAMILIES)
@torch.no_grad()
def test_what_stands_before_is_the_unedited_models_to_the_bit(family: str) -> None:
    tokens = torch.tensor([[50, 51, *PROMPT]])
    edited = build(family)(input_ids=tokens).logits[0]
    unedited = build_base(family).requires_grad_(False)(input_ids=tokens).logits[0]
    assert torch.equal(edited[:3].view(torch.int32), unedited[:3].view(torch.int32))
    assert (edited[3:] != unedited[3:]).any(1).all()


@torch.no_grad()
def test_the_update_is_added_from_the_start_of_each_row_on() -> None:
    model = build()
    subspaces = model.base_model.case_layer.adapter.subspaces
    inputs, output = torch.randn(3, 4, subspaces.d_in), torch.randn(3, 4, subspaces.d_out) * 100
    routes, starts = torch.tensor([1, -1, 0]), torch.tensor([2, 0, -3])
    expected = output.clone()
    for row in (0, 2):
        for column in range(max(0, int(starts[row])), 4):
            expected[row, column] += subspaces.update(int(routes[row]), inputs[row, column])
    found = subspaces(output, inputs, routes, starts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(found[0, :2], output[0, :2])
    assert torch.equal(found[1], output[1])


@pytest.mark.parametrize("mode", GREEDY_MODES)
def test_generation_is_naive_generation_from_the_start_on(mode: str) -> None:
    model = build()
    cases = list(zip(PROMPTS, ROUTES.tolist(), STARTS.tolist(), strict=True))
    together = answer(model, pad(PROMPTS, "left"), **MODES[mode])
    for row, case in enumerate(cases):
        tokens, logits = answer_naively(model, *case)
        alone = answer(model, pad([case[0]], "left"), **MODES[mode])
        for found, scores in ((together[0][row], together[1][row]), (alone[0][0], alone[1][0])):
            assert found.tolist() == tokens
            torch.testing.assert_close(scores, logits, rtol=0, atol=1e-5)
        if case[1] >= 0:
            assert (logits - answer_naively(model, case[0], case[1], 0)[1]).abs().max() > 5e-5


@pytest.mark.parametrize("way", WAYS)
def test_beams_and_samples_keep_their_prompts_start(way: str) -> None:
    model = build()
    batch = pad(PROMPTS, "left")
    forced = STARTS + (batch["attention_mask"] == 0).sum(1)
    found = generate(model, batch, num_beams=2, **WAYS[way])
    with model.base_model.forced_routes(ROUTES.repeat_interleave(2), forced.repeat_interleave(2)):
        assert torch.equal(found, generate(model, batch, num_beams=2, **WAYS[way]))


@torch.no_grad()
def test_a_later_turn_that_names_no_subject_again_is_edited_as_a_whole() -> None:
    model = build()
    first, second = [*UNRELATED, *SUBJECT], [20, 21, 22]
    layer, seen = model.base_model.case_layer, []
    layer.base_layer.register_forward_pre_hook(lambda *_: seen.append(layer.starts))
    cache = DynamicCache()
    for turn in (first, second):
        model(input_ids=torch.tensor([turn]), past_key_values=cache)
    starts: list[Tensor | None] = seen
    assert starts[1] is not None
    assert starts[1].tolist() == [6 - len(first)]  # before its first column
    assert layer.starts is None
