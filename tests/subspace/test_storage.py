"""What a file holds of the subspaces: rounding in memory, encoding, and reading back what was encoded."""

import pytest
import torch
from torch import Tensor, nn

from case_lightning.errors import ConfigError
from case_lightning.method.basis import draw_basis
from case_lightning.subspace import Subspaces
from case_lightning.subspace.subspaces import encode_parameters
from tests.method.naive import draw

D_IN, D_OUT, RANK = 12, 7, 4
PREFIX = "layer.subspaces."  # as in the state dict of a model
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8]
over_inputs = pytest.mark.parametrize("tune_input", [False, True], ids=["fixed input", "tuned input"])
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def make_room(tune_input: bool = False, seed: int = 3, n: int = 2) -> Subspaces:
    """As for a saved adapter: subspaces without its numbers."""
    subspaces = Subspaces(D_IN, D_OUT, RANK, seed=seed, n_directions=3, tune_input=tune_input)
    for _ in range(n):
        subspaces.open()
    return subspaces


def build_subspaces(tune_input: bool = False) -> Subspaces:
    """Two subspaces of whitened inputs, with columns of very different size and one of zeros."""
    subspaces = make_room(tune_input, n=0)
    inputs, outputs, *ups = draw(1, (50, D_IN), (50, D_OUT), (D_OUT, RANK), (D_OUT, RANK))
    subspaces.whiten(inputs * torch.logspace(-1, 1, D_IN), outputs)
    for index, up in enumerate(ups):
        subspaces.open()
        with torch.no_grad():
            subspaces.up[index].copy_(up * torch.logspace(-3, 2, RANK))
            subspaces.up[index][:, 2] = 0
    return subspaces


def encode(subspaces: Subspaces, dtype: torch.dtype) -> dict[str, Tensor]:
    return encode_parameters(subspaces.state_dict(prefix=PREFIX), dtype)


def read(state: dict[str, Tensor], subspaces: Subspaces) -> Subspaces:
    nn.ModuleDict({"layer": nn.ModuleDict({"subspaces": subspaces})}).load_state_dict(state)
    return subspaces


@over_inputs
@over_dtypes
def test_what_is_read_back_answers_like_what_was_rounded(dtype: torch.dtype, tune_input: bool) -> None:
    subspaces = build_subspaces(tune_input)
    subspaces.round_to(dtype)
    state = encode(subspaces, dtype)
    given = {name: value.clone() for name, value in state.items()}
    again = read(state, make_room(tune_input))
    (inputs,) = draw(5, (6, D_IN))
    for index in range(2):
        assert again.up[index].dtype == torch.float32
        assert torch.equal(again.basis(index), subspaces.basis(index))
        assert torch.equal(again.update(index, inputs), subspaces.update(index, inputs))
        assert again.update(index, inputs).abs().max() > 0.1
    assert state.keys() == given.keys()  # reading takes nothing out of it
    assert all(torch.equal(state[name], value) for name, value in given.items())


@over_inputs
@over_dtypes
def test_rounding_is_what_a_file_holds_and_happens_once(dtype: torch.dtype, tune_input: bool) -> None:
    subspaces = build_subspaces(tune_input)
    before = [parameter.detach().clone() for parameter in subspaces.parameters()]
    read_back = read(encode(subspaces, dtype), make_room(tune_input))
    subspaces.round_to(dtype)
    rounded = [parameter.detach().clone() for parameter in subspaces.parameters()]
    assert all(map(torch.equal, rounded, read_back.parameters()))
    assert all(map(torch.equal, rounded, before)) == (dtype == torch.float32)
    subspaces.round_to(dtype)
    assert all(map(torch.equal, subspaces.parameters(), rounded))
    assert {parameter.dtype for parameter in subspaces.parameters()} == {torch.float32}


def test_eight_bits_round_a_hundred_thousand_columns_once() -> None:
    """The scale of rounded columns is that of the columns, to the last bit."""
    subspaces = Subspaces(1, 3, 100_000)
    subspaces.open()
    (values,) = draw(2, (3, 100_000))
    with torch.no_grad():
        subspaces.up[0].copy_(values * values[:1].exp())
    subspaces.round_to(torch.int8)
    once = subspaces.up[0].detach().clone()
    subspaces.round_to(torch.int8)
    assert torch.equal(subspaces.up[0], once)


@over_inputs
def test_eight_bits_are_off_by_half_a_scale_at_most(tune_input: bool) -> None:
    subspaces = build_subspaces(tune_input)
    before = {name: parameter.detach().clone() for name, parameter in subspaces.named_parameters()}
    state = encode(subspaces, torch.int8)
    subspaces.round_to(torch.int8)
    for name, after in subspaces.named_parameters():
        for column, old in enumerate(before[name].T):
            scale = state[f"{PREFIX}{name}_scale"][0, column].item()
            assert scale == pytest.approx(old.abs().max().item() / 127)
            assert (after[:, column] - old).abs().max() <= 0.5001 * scale
    assert subspaces.up[0][:, 2].count_nonzero() == 0


@over_inputs
@over_dtypes
def test_only_the_subspaces_parameters_are_encoded(dtype: torch.dtype, tune_input: bool) -> None:
    others = {
        "layer.keys.tokens": torch.arange(3),
        "layer.memory.scales": torch.rand(3),
        "layer.up.0": torch.rand(2, 2),
    }
    subspaces = build_subspaces(tune_input)
    state = subspaces.state_dict(prefix=PREFIX) | others
    encoded = encode_parameters(state, dtype)
    matrices = {PREFIX + name for name, _ in subspaces.named_parameters()}
    assert set(encoded) == set(state) | ({f"{name}_scale" for name in matrices} if dtype == torch.int8 else set())
    for name, value in state.items():
        assert encoded[name].dtype == (dtype if name in matrices else value.dtype)
        assert name in matrices or encoded[name] is value


def test_a_fixed_input_is_built_again_from_what_was_read() -> None:
    subspaces, room = build_subspaces(), make_room()
    unwhitened = room.basis(0)
    assert torch.equal(unwhitened, draw_basis(RANK, D_IN, seed=3))
    read(encode(subspaces, torch.int8), room)
    assert not torch.allclose(room.basis(0), unwhitened, atol=1e-2)
    assert torch.equal(room.basis(0), subspaces.basis(0))


def test_a_fixed_input_is_not_in_the_file_and_comes_from_the_seed() -> None:
    state = encode(build_subspaces(), torch.int8)
    assert not any("down" in name for name in state)
    one, other = (read(state, make_room(seed=seed)) for seed in (3, 4))
    assert not torch.allclose(one.basis(0), other.basis(0), atol=1e-2)
    assert torch.equal(one.basis(1), other.basis(0))


def test_codes_and_scales_that_do_not_belong_together_are_refused() -> None:
    state = encode(build_subspaces(), torch.int8)
    codes, name = f"{PREFIX}up.0", f"{PREFIX}up.0_scale"
    for broken in (
        state | {name: state[name][:, :-1]},
        state | {name: state[name][:, :1]},
        state | {codes: state[codes].float()},
        {key: value for key, value in state.items() if key != codes},
        {key: value for key, value in state.items() if key != name},
    ):
        with pytest.raises(ConfigError, match=r"up\.0.*restore the file from a copy"):
            read(broken, make_room())


def test_whitening_comes_before_the_first_subspace() -> None:
    with pytest.raises(ValueError, match="found 2 open"):
        build_subspaces().whiten(torch.randn(40, D_IN), torch.randn(40, D_OUT))


@pytest.mark.parametrize("inference", [True, False])
def test_a_basis_built_in_inference_mode_serves_training(inference: bool) -> None:
    subspaces, inputs = build_subspaces(), torch.randn(2, D_IN, requires_grad=True)
    with torch.inference_mode(inference):
        subspaces.update(0, inputs.detach())
    subspaces.update(0, inputs).sum().backward()
    assert inputs.grad is not None


def test_other_random_numbers_than_those_of_the_file_are_noticed() -> None:
    subspaces = build_subspaces()
    subspaces.basis(0)
    state = encode(subspaces, torch.int8)
    with pytest.raises(ConfigError, match="the seed gives other random numbers"):
        read(state, make_room(seed=4)).basis(0)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_a_basis_does_not_depend_on_the_default_dtype(default: torch.dtype) -> None:
    expected = draw_basis(RANK, D_IN, seed=3)
    torch.set_default_dtype(default)
    try:
        assert torch.equal(draw_basis(RANK, D_IN, seed=3), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_adapter_in_another_dtype_still_answers() -> None:
    subspaces, (inputs,) = build_subspaces(), draw(5, (6, D_IN))
    expected = subspaces.update(0, inputs)
    assert torch.allclose(subspaces.to(torch.bfloat16).update(0, inputs), expected, rtol=0.05, atol=0.05)
