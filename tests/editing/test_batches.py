import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from case_lightning.editing.batches import EditBatch, PreparedEdit, PreparedText, StepData, collate
from case_lightning.editing.encoding import Encoded

HIDDEN = 3


def make_text(prompt: int, answer: int, mark: float) -> PreparedText:
    tokens = torch.arange(prompt + answer) + int(mark) * 100
    return PreparedText(Encoded(tokens, prompt), torch.full((prompt + answer, HIDDEN), float(mark)))


def make_edit(index: int, subspace: int = 0, answer: int | None = None) -> PreparedEdit:
    """An edit whose states are all `index + 1`, its variants' a tenth more each."""
    length = index % 3 + 1 if answer is None else answer
    variants = tuple(make_text(3, length, index + 1 + tenth / 10) for tenth in (1, 2))
    return PreparedEdit(make_text(2, length, index + 1), variants, subspace)


def step_through(
    rank: int, world_size: int, past: list[PreparedEdit], new: list[PreparedEdit] | None = None, seed: int = 0
) -> list[EditBatch]:
    new = [make_edit(index) for index in range(4)] if new is None else new
    return list(StepData(lambda: new, past, 6, 3, seed, rank, world_size))


def list_states(batch: EditBatch) -> list[float]:
    """Which wording each row is."""
    return [round(value, 3) for value in batch.states[:, 0, 0].tolist()]


def test_collate_pads_on_the_right_and_points_at_every_label() -> None:
    edits = [make_edit(0, 2, answer=1), make_edit(1, 0, answer=3)]
    batch = collate(edits)
    assert batch.states.shape == (2, 5, HIDDEN)
    assert batch.states[0, 3:].abs().sum() == 0
    assert batch.rows.tolist() == [0, 1, 1, 1]
    assert batch.columns.tolist() == [1, 1, 2, 3]
    assert batch.labels.tolist() == [102, 202, 203, 204]
    assert batch.routes.tolist() == [2, 0]


def test_each_edit_weighs_the_same_whatever_its_length() -> None:
    batch = collate([make_edit(0, answer=1), make_edit(1, answer=3)])
    torch.testing.assert_close(batch.weights, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))
    part = collate([make_edit(1, answer=3)], total=2)
    torch.testing.assert_close(part.weights, torch.tensor([1 / 6] * 3))


def test_a_batch_moves_as_a_whole() -> None:
    moved = collate([make_edit(0), make_edit(1)]).to(torch.device("meta"))
    assert all(value.device.type == "meta" for value in vars(moved).values() if isinstance(value, torch.Tensor))


def test_a_batch_of_short_and_long_rows_is_split() -> None:
    edits = [make_edit(0, answer=1), make_edit(1, answer=40), make_edit(2, answer=2), make_edit(0, 3, answer=38)]
    whole = collate(edits)
    short, long = whole.split(24)
    assert [list_states(part) for part in (short, long)] == [[1, 3], [1, 2]]
    assert [part.states.shape[1] for part in (short, long)] == [3, 41]
    assert short.routes.tolist() == [0, 0]
    assert long.routes.tolist() == [3, 0]

    def describe(batch: EditBatch) -> list[tuple[float, ...]]:
        marks = batch.states[batch.rows, batch.columns, 0]
        return sorted(zip(*(one.tolist() for one in (marks, batch.columns, batch.labels, batch.weights)), strict=True))

    assert sorted(describe(short) + describe(long)) == describe(whole)


@pytest.mark.parametrize("answers", [[3], [3, 3, 3], [10, 11, 12, 13]])
def test_a_batch_of_rows_of_like_length_stays_whole(answers: list[int]) -> None:
    whole = collate([make_edit(index, answer=answer) for index, answer in enumerate(answers)])
    assert whole.split(24) == [whole]


@pytest.mark.parametrize("overhead", [0, 1, 7, 30, 10_000])
def test_no_other_way_to_split_costs_less(overhead: int) -> None:
    answers = [1, 1, 2, 5, 6, 6, 20, 21]
    batch = collate([make_edit(index, answer=answer) for index, answer in enumerate(answers)])
    lengths = [int(batch.columns[batch.rows == row].max()) + 1 for row in range(8)]

    def cost(ends: Sequence[int]) -> int:
        return sum((end - start) * lengths[end - 1] + overhead for start, end in itertools.pairwise([0, *ends, 8]))

    ways = [ends for count in range(8) for ends in itertools.combinations(range(1, 8), count)]
    sizes = [len(part.routes) for part in batch.split(overhead)]
    assert cost(list(itertools.accumulate(sizes))[:-1]) == min(map(cost, ways))


PAST = [make_edit(index, subspace=index % 2) for index in range(10, 20)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_processes_share_the_rows_of_the_same_draws(world_size: int) -> None:
    """Nine processes are more than the seven rows of a step."""
    whole = step_through(0, 1, PAST)
    parts = [step_through(rank, world_size, PAST) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        assert math.isclose(sum(share.weights.sum().item() for share in shares), 1, rel_tol=1e-5)
        weighted = [share for share in shares if share.weights.sum() > 0]
        assert sorted(state for share in weighted for state in list_states(share)) == sorted(list_states(batch))
        weights = sorted(weight for share in weighted for weight in share.weights.tolist())
        assert weights == pytest.approx(sorted(batch.weights.tolist()))


def test_a_process_without_rows_still_takes_part() -> None:
    for batch in step_through(8, 9, PAST):
        assert batch.weights.sum() == 0
        assert len(batch.labels) > 0


def test_only_edits_of_active_subspaces_are_rehearsed() -> None:
    new = [make_edit(0, subspace=1)]
    rehearsed = {int(state) - 1 for batch in step_through(0, 1, PAST, new) for state in list_states(batch)[1:]}
    assert rehearsed
    assert rehearsed <= {11, 13, 15, 17, 19}
    assert all(len(batch.routes) == 4 and set(batch.routes.tolist()) == {1} for batch in step_through(0, 1, PAST, new))


def test_the_new_edits_come_first_in_one_wording_or_another() -> None:
    seen = [list_states(batch)[:4] for batch in step_through(0, 1, PAST)]
    assert all([int(state) for state in states] == [1, 2, 3, 4] for states in seen)
    assert {round(state % 1, 1) for states in seen for state in states} == {0.0, 0.1, 0.2}


def test_draws_follow_the_seed() -> None:
    first, again, other = ([list_states(b) for b in step_through(0, 1, PAST, seed=seed)] for seed in (1, 1, 2))
    assert first == again != other


def test_new_edits_are_asked_for_when_the_data_is_iterated() -> None:
    new: list[PreparedEdit] = []
    data = StepData(lambda: new, [], 2, 3, 0)
    new.append(make_edit(0, subspace=5))
    assert [batch.routes.tolist() for batch in data] == [[5], [5]]
    assert len(data) == 2
