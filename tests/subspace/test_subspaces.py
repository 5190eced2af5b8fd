from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from case_lightning.method.basis import draw_basis, measure_whitening
from case_lightning.subspace import UNEDITED, Subspaces
from case_lightning.subspace.memory import MemoryStore
from tests.method.naive import draw

D_IN, D_OUT, RANK = 6, 5, 3
over_inputs = pytest.mark.parametrize("tune_input", [False, True], ids=["fixed input", "tuned input"])


def build_subspaces(n: int = 3, seed: int = 0, scale: float = 0.5, tune_input: bool = False) -> Subspaces:
    subspaces = Subspaces(D_IN, D_OUT, RANK, scale, seed, tune_input=tune_input)
    for index, up in enumerate(draw(9, *[(D_OUT, RANK)] * n)):
        assert subspaces.open() == index
        with torch.no_grad():
            subspaces.up[index].copy_(up)
    return subspaces


def materialise(subspaces: Subspaces, index: int) -> Tensor:
    """`s · B A` by loops, `(d_out, d_in)`."""
    update = torch.zeros(D_OUT, D_IN)
    for out in range(D_OUT):
        for into in range(D_IN):
            for rank in range(RANK):
                product = subspaces.up[index][out, rank] * subspaces.basis(index)[rank, into]
                update[out, into] += subspaces.scale * product.item()
    return update


@over_inputs
def test_open_is_seeded_and_starts_from_no_change(tune_input: bool) -> None:
    one, other = (Subspaces(D_IN, D_OUT, RANK, seed=4, tune_input=tune_input) for _ in range(2))
    for subspaces in (one, other):
        torch.rand(7)  # the global generator has no say
        for _ in range(3):
            subspaces.open()
    assert len(one) == 3
    for index in range(3):
        assert torch.equal(one.basis(index), other.basis(index))
        assert torch.equal(one.basis(index), draw_basis(RANK, D_IN, seed=4 + index))  # no inputs seen: as they are
        assert one.up[index].count_nonzero() == 0
    assert not torch.equal(one.basis(0), one.basis(1))
    shifted = Subspaces(D_IN, D_OUT, RANK, seed=5, tune_input=tune_input)
    shifted.open()
    assert torch.equal(shifted.basis(0), one.basis(1))  # subspace i starts from seed + i


@over_inputs
def test_opening_leaves_the_global_generator_alone(tune_input: bool) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    materialise(build_subspaces(tune_input=tune_input), 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("tune_input", "names"), [(False, {"up"}), (True, {"up", "down"})])
def test_a_fixed_input_is_neither_trained_nor_stored(tune_input: bool, names: set[str]) -> None:
    subspaces = build_subspaces(n=2, tune_input=tune_input)
    materialise(subspaces, 1)  # also once it is built
    parameters = {f"{name}.{index}" for name in names for index in range(2)}
    assert {name for name, _ in subspaces.named_parameters()} == parameters
    assert set(subspaces.state_dict()) == parameters | {"scales", "directions", "shrinks", "draws"}
    assert subspaces.parameters_of(1).keys() == names
    for name, parameter in subspaces.parameters_of(1).items():
        assert parameter is getattr(subspaces, name)[1]
    assert subspaces.basis(1).requires_grad == tune_input


@over_inputs
def test_whitened_inputs_before_the_first_subspace(tune_input: bool) -> None:
    inputs, outputs = draw(3, (40, D_IN), (40, D_OUT))
    inputs, outputs = inputs * torch.logspace(-1, 1, D_IN), outputs * 7
    subspaces = Subspaces(D_IN, D_OUT, RANK, seed=2, n_directions=2, tune_input=tune_input)
    subspaces.whiten(inputs, outputs)
    index = subspaces.open()
    whitening = measure_whitening(inputs, 2, outputs.square().mean().sqrt().item())
    shrunk = whitening.directions.T @ torch.diag(whitening.shrinks) @ whitening.directions
    expected = draw_basis(RANK, D_IN, seed=2) @ (torch.eye(D_IN) + shrunk) @ torch.diag(whitening.scales)
    torch.testing.assert_close(subspaces.basis(index).detach(), expected, rtol=1e-2, atol=1e-2)  # directions are halves
    features = inputs @ subspaces.basis(index).T
    assert 0.5 < features.square().mean().sqrt() / outputs.square().mean().sqrt() < 2


def test_a_fixed_input_follows_the_device() -> None:
    subspaces = build_subspaces(n=1)
    before = subspaces.basis(0)
    assert subspaces.basis(0) is before  # built once
    assert subspaces.to("meta").basis(0).device.type == "meta"
    again = subspaces.to_empty(device="cpu")
    again.load_state_dict(build_subspaces(n=1).state_dict())
    assert torch.equal(again.basis(0), before)


@over_inputs
@pytest.mark.parametrize("index", [0, 2])
def test_update_and_direction_are_those_of_the_dense_matrix(index: int, tune_input: bool) -> None:
    subspaces, inputs = build_subspaces(tune_input=tune_input), torch.randn(2, 4, D_IN)
    dense = materialise(subspaces, index)
    torch.testing.assert_close(subspaces.update(index, inputs), inputs @ dense.T)
    direction = subspaces.direction(index)
    torch.testing.assert_close(direction.left.T @ direction.right, dense)


@pytest.mark.parametrize(
    "routes", [[0, 1, 2], [2, 2, UNEDITED], [UNEDITED] * 3, [1, UNEDITED, 1], [UNEDITED, 0, UNEDITED]], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_routes_each_row(routes: list[int], dtype: torch.dtype) -> None:
    subspaces, inputs = build_subspaces(), torch.randn(3, 4, D_IN).to(dtype)
    output = torch.randn(3, 4, D_OUT).to(dtype)
    kept = output.clone()
    found = subspaces(output, inputs, torch.tensor(routes))
    assert torch.equal(output, kept)
    assert found.dtype == dtype
    for row, index in enumerate(routes):
        if index == UNEDITED:
            assert torch.equal(found[row], kept[row])
        else:
            expected = kept[row] + (inputs[row].float() @ materialise(subspaces, index).T).to(dtype)
            torch.testing.assert_close(found[row], expected)


@over_inputs
def test_gradients_stay_with_the_routed_subspace(tune_input: bool) -> None:
    subspaces = build_subspaces(tune_input=tune_input)
    subspaces(torch.randn(2, 4, D_OUT), torch.randn(2, 4, D_IN), torch.tensor([1, UNEDITED])).sum().backward()
    assert [parameter.grad is not None for parameter in subspaces.up] == [False, True, False]
    assert [parameter.grad is not None for parameter in subspaces.down] == [False, True, False][: len(subspaces.down)]


def draw_rows(n: int) -> dict[str, Tensor]:
    return {
        "inputs": torch.randint(-127, 128, (n, D_IN), dtype=torch.int8),
        "input_scales": torch.rand(n, 1),
        "outputs": torch.randint(-127, 128, (n, D_OUT), dtype=torch.int8),
        "output_scales": torch.rand(n, 1),
        "subspaces": torch.arange(n, dtype=torch.int16),
    }


def _through_state_dict(store: MemoryStore) -> MemoryStore:
    loaded = MemoryStore(D_IN, D_OUT, len(store))
    loaded.load_state_dict(store.state_dict())
    return loaded


def _as_it_is(store: MemoryStore) -> MemoryStore:
    return store


@pytest.mark.parametrize("way", [_as_it_is, _through_state_dict])
@pytest.mark.parametrize("n", [0, 1, 4])
def test_memory_gives_back_what_it_was_given(way: Callable[[MemoryStore], MemoryStore], n: int) -> None:
    store, rows = MemoryStore(D_IN, D_OUT), draw_rows(n)
    assert len(store) == 0
    given = {name: value.clone() for name, value in rows.items()}
    store.replace(rows)
    for value in rows.values():
        value.zero_()  # the store keeps its own
    found = way(store)
    assert len(found) == n
    assert set(dict(found.named_buffers())) == set(given)
    for name, value in given.items():
        assert torch.equal(getattr(found, name), value)
        assert getattr(found, name).dtype == value.dtype
