"""A row's route is decided once, when its prompt is first seen, and held until its answer ends."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, pipeline

from case_lightning.subspace import Router
from case_lightning.subspace.held import Routes
from tests.base.tiny_models import build_tokenizer
from tests.subspace.tiny_adapters import OTHER, PROMPT, UNRELATED, build_adapter, build_base

PROMPTS = [PROMPT, [33, 34, *OTHER], UNRELATED, [35, *PROMPT], [30]]
ROUTES = torch.tensor([0, 1, -1, 0, -1])
NEW = 6
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
WAYS = {
    "cache": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
}
FAMILIES_THAT_PAD = ["llama", "gemma2", "gpt2, Conv1D", "opt, no final norm"]


def pad(prompts: list[list[int]], side: str) -> dict[str, Tensor]:
    """Prompts as a batch; the padding spells the subject of the second edit, which it must not name."""
    width = max(map(len, prompts))
    tokens, mask = [], []
    for prompt in prompts:
        filler = (OTHER * 3)[: width - len(prompt)]
        used, unused = [1] * len(prompt), [0] * len(filler)
        tokens.append(filler + prompt if side == "left" else prompt + filler)
        mask.append(unused + used if side == "left" else used + unused)
    return {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}


def generate(model: torch.nn.Module, batch: dict[str, Tensor], **settings: object) -> Tensor:
    """The new tokens, `(rows, NEW)`."""
    config = GenerationConfig(**GREEDY | settings, eos_token_id=2)
    return model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]


@torch.no_grad()
def generate_naively(model: PeftModel, prompt: list[int], route: int) -> list[int]:
    """Greedy, token by token, the whole text each time, the route forced."""
    tokens = list(prompt)
    for _ in range(NEW):
        with model.base_model.forced_routes(torch.tensor([route])):
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        logits[2] = -torch.inf  # the end token, which `min_new_tokens` forbids
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


@contextmanager
def counted_routings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    locate = Router.locate

    def count(self: Router, tokens: Tensor, mask: Tensor | None = None) -> Routes:
        routes = locate(self, tokens, mask)
        found.append(routes.subspaces)
        return routes

    with monkeypatch.context() as patch:
        patch.setattr(Router, "locate", count)
        yield found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES_THAT_PAD)
def test_routed_greedy_generation_is_naive_generation_with_forced_routes(
    family: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_adapter(build_base(family))
    expected = [generate_naively(model, prompt, route) for prompt, route in zip(PROMPTS, ROUTES.tolist(), strict=True)]
    with counted_routings(monkeypatch) as routings:
        found = generate(model, pad(PROMPTS, "left"), **WAYS[way])
    assert found.tolist() == expected
    assert [routes.tolist() for routes in routings] == [ROUTES.tolist()]
    unedited = generate(build_base(family), pad(PROMPTS, "left"))
    differs = (found != unedited).any(1)
    assert differs[ROUTES >= 0].any()
    assert not differs[ROUTES < 0].any()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("way", WAYS)
def test_a_route_depends_on_neither_neighbours_nor_padding(
    way: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_adapter(build_base())
    for order in ([0, 1, 2, 3, 4], [4, 2, 0], [1], [4]):
        with counted_routings(monkeypatch) as routings:
            generate(model, pad([PROMPTS[row] for row in order], side), **WAYS[way])
        assert [routes.tolist() for routes in routings] == [ROUTES[order].tolist()]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2, "temperature": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["cache", "no cache"])
def test_beams_and_samples_share_their_prompts_route(way: str, settings: dict[str, object]) -> None:
    """Each row answers as when the whole batch is forced through its route."""
    model, base, batch = build_adapter(build_base()), build_base(), pad(PROMPTS, "left")
    each = settings.get("num_return_sequences", 1)
    torch.manual_seed(0)
    found = generate(model, batch, **WAYS[way], **settings).reshape(len(PROMPTS), each, NEW)
    width = each if settings.get("do_sample") else settings["num_beams"]
    torch.manual_seed(0)
    with model.base_model.forced_routes(ROUTES.repeat_interleave(width)):
        forced = generate(model, batch, **WAYS[way], **settings).reshape(len(PROMPTS), each, NEW)
    assert torch.equal(found, forced)
    torch.manual_seed(0)
    unedited = generate(base, batch, **settings).reshape(len(PROMPTS), each, NEW)
    assert ((found != unedited).any(2).any(1) == (ROUTES >= 0)).all()


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_names_another_edit_changes_nothing(way: str) -> None:
    """The first answers spell the second edit's prompt; the decision stays with the first prompt."""
    model = build_adapter(build_base())
    answer = generate(model, pad([PROMPT], "left"), **WAYS[way])
    keys = model.base_model.case_layer.adapter.keys
    keys.add(answer[0, :3], torch.tensor([True, True, True]), 1)
    assert torch.equal(generate(model, pad([PROMPT], "left"), **WAYS[way]), answer)


@pytest.mark.parametrize("way", WAYS)
def test_a_disabled_adapter_in_between(way: str) -> None:
    model, batch = build_adapter(build_base()), pad(PROMPTS, "left")
    before = generate(model, batch, **WAYS[way])
    with model.disable_adapter():
        assert torch.equal(generate(model, batch, **WAYS[way]), generate(build_base(), batch))
    assert torch.equal(generate(model, batch, **WAYS[way]), before)


def test_generation_ends_with_its_call_also_after_an_exception() -> None:
    model, batch = build_adapter(build_base()), pad([OTHER], "left")
    with pytest.raises(IndexError):
        generate(model, {"input_ids": torch.tensor([[10_000]])})
    generate(model, pad([UNRELATED], "left"), use_cache=False)
    expected = generate_naively(model, OTHER, 1)
    assert generate(model, batch, use_cache=False).tolist() == [expected]


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
def test_every_way_in(task_type: str | None) -> None:
    model, batch = build_adapter(build_base(), task_type=task_type), pad([PROMPT], "left")
    expected = [generate_naively(model, PROMPT, 0)]
    assert generate(model, batch).tolist() == expected
    assert generate(model.get_base_model(), batch).tolist() == expected
    tokenizer = build_tokenizer(pad_token="<pad>", eos_token="</s>")
    for one in (model.get_base_model(), model):
        pipe = pipeline("text-generation", model=one, tokenizer=tokenizer)
        (answer,) = pipe(tokenizer.decode(PROMPT), return_tensors=True, **GREEDY)
        assert answer["generated_token_ids"][len(PROMPT) :] == expected[0]


@torch.no_grad()
def test_a_cache_holds_the_routes_of_its_rows() -> None:
    model, base = build_adapter(build_base()), build_base()
    prompts, next_tokens = torch.tensor([PROMPT, UNRELATED]), torch.tensor([[40], [41]])
    first = model(input_ids=prompts, use_cache=True)
    copied = copy.deepcopy(first.past_key_values)
    whole = torch.cat([prompts, next_tokens], dim=1)
    with model.base_model.forced_routes(torch.tensor([0, -1])):
        expected = model(input_ids=whole).logits[:, -1:]
    for cache in (first.past_key_values, copied):
        found = model(input_ids=next_tokens, past_key_values=cache).logits
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    with model.disable_adapter():
        unedited = model(input_ids=prompts, use_cache=True).past_key_values
    found = model(input_ids=next_tokens, past_key_values=unedited).logits
    torch.testing.assert_close(found, base(input_ids=whole).logits[:, -1:], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_cache_whose_rows_were_repeated_keeps_each_rows_route() -> None:
    model = build_adapter(build_base())
    cache = model(input_ids=torch.tensor([PROMPT, UNRELATED]), use_cache=True).past_key_values
    cache.batch_repeat_interleave(2)
    found = model(input_ids=torch.full((4, 1), 40), past_key_values=cache).logits
    with model.base_model.forced_routes(torch.tensor([0, -1])):
        whole = torch.tensor([[*PROMPT, 40], [*UNRELATED, 40]])
        expected = model(input_ids=whole).logits[:, -1:].repeat_interleave(2, dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_cache_used_again_after_a_reset_forgets_its_routes() -> None:
    model, cache = build_adapter(build_base()), DynamicCache()
    model(input_ids=torch.tensor([PROMPT]), past_key_values=cache)
    cache.reset()
    with model.disable_adapter():
        model(input_ids=torch.tensor([PROMPT]), past_key_values=cache)
    found = model(input_ids=torch.tensor([[40]]), past_key_values=cache).logits
    expected = build_base()(input_ids=torch.tensor([[*PROMPT, 40]])).logits[:, -1:]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_copied_model_generates_alike() -> None:
    model, batch = build_adapter(build_base()), pad(PROMPTS, "left")
    before = generate(model, batch)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.base_model.case_layer.adapter.parameters():
            parameter.zero_()
    assert torch.equal(generate(copied, batch), before)
