from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from case_lightning.subspace import UNEDITED, Subspaces
from case_lightning.subspace.memory import MemoryStore

D_IN, D_OUT, RANK = 6, 5, 3


def build_subspaces(n: int = 3, seed: int = 0, scale: float = 0.5) -> Subspaces:
    subspaces = Subspaces(D_IN, D_OUT, RANK, scale, seed)
    generator = torch.Generator().manual_seed(9)
    for index in range(n):
        assert subspaces.open() == index
        with torch.no_grad():
            subspaces.up[index].copy_(torch.randn(D_OUT, RANK, generator=generator))
    return subspaces


def materialise(subspaces: Subspaces, index: int) -> Tensor:
    """`s · B A` by loops, `(d_out, d_in)`."""
    update = torch.zeros(D_OUT, D_IN)
    for out in range(D_OUT):
        for into in range(D_IN):
            for rank in range(RANK):
                product = subspaces.up[index][out, rank] * subspaces.down[index][rank, into]
                update[out, into] += subspaces.scale * product.item()
    return update


def test_open_is_seeded_and_starts_from_no_change() -> None:
    one, other = Subspaces(D_IN, D_OUT, RANK, seed=4), Subspaces(D_IN, D_OUT, RANK, seed=4)
    for subspaces in (one, other):
        torch.rand(7)  # the global generator has no say
        for _ in range(3):
            subspaces.open()
    assert len(one) == 3
    for index in range(3):
        assert torch.equal(one.down[index], other.down[index])
        assert one.up[index].count_nonzero() == 0
        assert one.down[index].shape == (RANK, D_IN)
    assert not torch.equal(one.down[0], one.down[1])
    shifted = Subspaces(D_IN, D_OUT, RANK, seed=5)
    shifted.open()
    assert torch.equal(shifted.down[0], one.down[1])  # subspace i starts from seed + i


def test_opening_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_subspaces()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("index", [0, 2])
def test_update_and_direction_are_those_of_the_dense_matrix(index: int) -> None:
    subspaces, inputs = build_subspaces(), torch.randn(2, 4, D_IN)
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


def test_gradients_stay_with_the_routed_subspace() -> None:
    subspaces = build_subspaces()
    subspaces(torch.randn(2, 4, D_OUT), torch.randn(2, 4, D_IN), torch.tensor([1, UNEDITED])).sum().backward()
    assert [parameter.grad is not None for parameter in subspaces.up] == [False, True, False]
    assert [parameter.grad is not None for parameter in subspaces.down] == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_is_what_a_file_of_that_dtype_holds(dtype: torch.dtype) -> None:
    subspaces = build_subspaces()
    before = [parameter.detach().clone() for parameter in subspaces.parameters()]
    subspaces.round_to(dtype)
    for parameter, value in zip(subspaces.parameters(), before, strict=True):
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, value.to(dtype).float())
    assert all(map(torch.equal, subspaces.parameters(), before)) == (dtype == torch.float32)


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
