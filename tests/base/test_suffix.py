import pytest
import torch
from torch import Tensor, nn
from transformers import OPTConfig, PreTrainedModel

from case_lightning.base.architecture import find_architecture
from case_lightning.base.suffix import Prefix, Suffix, only_positions
from tests.base.tiny_models import SIZES, build_model
from tests.subspace.tiny_adapters import EDITED_FAMILIES, build_adapter, build_base, draw_tokens

LENGTHS = [7, 4, 1]
ROWS, COLUMNS = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([3, 6, 0, 3, 0])


def draw_texts() -> list[Tensor]:
    return [row[:length] for row, length in zip(draw_tokens(3, 7), LENGTHS, strict=True)]


def pad(sequences: list[Tensor]) -> Tensor:
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True)


def run_alone(model: PreTrainedModel, texts: list[Tensor]) -> Tensor:
    """The wanted logits of each text run without neighbours and padding, `(positions, vocabulary)`."""
    logits = [model(input_ids=text[None]).logits[0] for text in texts]
    return torch.stack([logits[row][column] for row, column in zip(ROWS, COLUMNS, strict=True)])


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", EDITED_FAMILIES)
@torch.no_grad()
def test_suffix_from_prefix_states_equals_the_full_forward(family: str, layer: int) -> None:
    model, texts = build_base(family), draw_texts()
    plain = run_alone(model, texts)
    architecture = find_architecture(model)
    target = architecture.down_projections[layer]
    tuner = build_adapter(model, keys=False, target_modules=[target]).base_model
    states = Prefix(model, architecture, layer, batch_tokens=8)(texts)
    assert [len(state) for state in states] == LENGTHS
    suffix = Suffix(model, architecture, layer)

    torch.testing.assert_close(suffix(pad(states), ROWS, COLUMNS), plain, rtol=1e-4, atol=1e-5)

    routes = torch.tensor([1, -1, 0])
    edited = plain.clone()
    for row in (0, 2):
        with tuner.forced_routes(routes[row : row + 1]):
            edited[row == ROWS] = run_alone(model, texts)[row == ROWS]
    assert not torch.allclose(edited, plain, atol=1e-2)
    suffix.edited.routes = routes
    torch.testing.assert_close(suffix(pad(states), ROWS, COLUMNS), edited, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", EDITED_FAMILIES)
@torch.no_grad()
def test_texts_run_apart_share_a_pass_through_the_head(family: str) -> None:
    model, texts = build_base(family), draw_texts()
    architecture = find_architecture(model)
    states = Prefix(model, architecture, 1)(texts)
    suffix = Suffix(model, architecture, 1)
    first = ROWS == 0
    entering = suffix.run_to_head(states[0][None], ROWS[first], COLUMNS[first])
    found = suffix(pad(states[1:]), ROWS[~first] - 1, COLUMNS[~first], [entering])
    torch.testing.assert_close(found, run_alone(model, texts), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_top_mlp_runs_at_wanted_positions_alone() -> None:
    model = build_base()
    architecture = find_architecture(model)
    states = pad(Prefix(model, architecture, 1)(draw_texts()))
    for layer, entered in ((1, (len(ROWS),)), (2, states.shape[:2])):  # the last layer may be the edited one
        suffix = Suffix(model, architecture, layer)
        seen: list[Tensor] = []
        down = suffix.model.get_submodule(architecture.down_projections[-1])
        handle = down.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        suffix(states, ROWS, COLUMNS)
        handle.remove()
        assert seen[0].shape[:-1] == entered


@torch.no_grad()
def test_embeddings_narrower_than_the_states() -> None:
    model = build_model(OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=16))
    architecture, texts = find_architecture(model), draw_texts()
    states = Prefix(model, architecture, 1)(texts)
    found = Suffix(model, architecture, 1)(pad(states), ROWS, COLUMNS)
    torch.testing.assert_close(found, run_alone(model, texts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 8, 2048])
def test_prefix_states_do_not_depend_on_how_texts_are_grouped(batch_tokens: int) -> None:
    model, texts = build_base(), draw_texts()
    entered = [model(input_ids=text[None], output_hidden_states=True).hidden_states[2][0] for text in texts]
    states = Prefix(model, find_architecture(model), 2, batch_tokens=batch_tokens)(texts)
    for state, expected in zip(states, entered, strict=True):
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
        assert not state.requires_grad
    assert Prefix(model, find_architecture(model), 2)([]) == []


@pytest.mark.parametrize("family", EDITED_FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_a_prefix_in_another_dtype_leaves_the_model_and_its_router_alone(family: str, dtype: torch.dtype) -> None:
    model, texts = build_base(family), draw_texts()
    architecture = find_architecture(model)
    expected = Prefix(model, architecture, 2)(texts)
    tuner = build_adapter(model, layer=2).base_model
    tuner._route = None  # not to be called
    states = Prefix(model, architecture, 2, dtype)(texts)
    for state, exact in zip(states, expected, strict=True):
        assert state.dtype == dtype
        torch.testing.assert_close(state.float(), exact, rtol=0.05, atol=0.05)
        assert not torch.equal(state.float(), exact)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", EDITED_FAMILIES)
def test_everything_is_in_place_again_after_an_exception(family: str) -> None:
    model, texts = build_base(family), draw_texts()
    architecture = find_architecture(model)
    layers, before = list(architecture.layers), run_alone(model, texts)
    prefix, suffix = Prefix(model, architecture, 2), Suffix(model, architecture, 2)
    states = pad(prefix(texts))
    with pytest.raises(IndexError):
        suffix(states, ROWS, COLUMNS + 100)
    with pytest.raises(IndexError):
        prefix([torch.tensor([10_000])])
    assert all(now is then for now, then in zip(architecture.layers, layers, strict=True))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.equal(run_alone(model, texts), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tune_input", [False, True], ids=["fixed input", "tuned input"])
def test_gradients_reach_the_subspaces_and_states(dtype: torch.dtype, tune_input: bool) -> None:
    model, texts = build_base(), draw_texts()
    architecture = find_architecture(model)
    tuner = build_adapter(model, keys=False, layer=2, tune_input=tune_input).base_model
    states = pad(Prefix(model, architecture, 2)(texts)).requires_grad_()
    suffix = Suffix(model, architecture, 2, dtype, shared=[tuner.case_layer.case_adapter])
    suffix.edited.routes = torch.tensor([0, -1, -1])
    suffix(states, ROWS, COLUMNS).sum().backward()
    subspaces = tuner.case_layer.adapter.subspaces
    for parameter in subspaces.parameters_of(0).values():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in subspaces.parameters_of(1).values())
    assert states.grad.abs().sum() > 0


def test_only_positions_of_a_head() -> None:
    head, hidden = nn.Linear(4, 6), torch.randn(3, 7, 4)
    with only_positions(head, ROWS, COLUMNS):
        some = head(hidden)
    assert some.shape == (1, len(ROWS), 6)
    torch.testing.assert_close(some[0], head(hidden)[ROWS, COLUMNS])
