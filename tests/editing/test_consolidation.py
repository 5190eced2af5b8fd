"""Past edits learned again together: which, how often, when, and what it brings."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from case_lightning.config import ConsolidationSettings
from case_lightning.editing.batches import EditBatch
from case_lightning.editing.consolidation import (
    PassData,
    count_all_steps,
    count_steps,
    find_resting,
    find_touched,
    is_due,
)
from case_lightning.editing.editor import Editor
from case_lightning.editing.ledger import Stream
from tests.editing.test_batches import PAST, list_states
from tests.editing.tiny_run import make_editor, make_edits

EDITS = make_edits(12)


def list_batches(rank: int = 0, world_size: int = 1, seed: int = 0, **settings: int) -> list[EditBatch]:
    return list(PassData(PAST, ConsolidationSettings(**settings), seed, rank, world_size))


@pytest.mark.parametrize(
    ("passes", "edits", "batch_size", "sizes"),
    [
        (1, 1000, 4, [4, 4, 2]),
        (2, 1000, 4, [4] * 5),
        (3, 5, 4, [4, 4, 4, 3]),
        (1, 1000, 100, [10]),
    ],
)
def test_each_edit_is_seen_once_a_pass(passes: int, edits: int, batch_size: int, sizes: list[int]) -> None:
    batches = list_batches(passes=passes, edits=edits, batch_size=batch_size)
    assert [len(batch.routes) for batch in batches] == sizes
    assert len(batches) == count_steps(len(PAST), ConsolidationSettings(1, passes, edits, batch_size))
    seen = [int(state) for batch in batches for state in list_states(batch)]
    assert set(Counter(seen).values()) == {passes}
    assert len(set(seen)) == min(edits, len(PAST))
    for one in range(passes):  # the first pass ends before the second begins
        part = seen[one * min(edits, len(PAST)) : (one + 1) * min(edits, len(PAST))]
        assert len(set(part)) == len(part)


def test_wordings_and_order_follow_the_seed() -> None:
    first, again, other = ([list_states(b) for b in list_batches(passes=3, batch_size=4, seed=s)] for s in (1, 1, 2))
    assert first == again != other
    assert {round(state % 1, 1) for states in first for state in states} == {0.0, 0.1, 0.2}


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_the_rows(world_size: int) -> None:
    whole = list_batches(batch_size=4)
    parts = [list_batches(rank, world_size, batch_size=4) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts if part[step].weights.sum() > 0]
        assert sorted(state for share in shares for state in list_states(share)) == sorted(list_states(batch))
        assert sum(share.weights.sum().item() for share in shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("before", "after", "every", "due"),
    [
        (0, 10, 10, True),
        (0, 9, 10, False),
        (9, 11, 10, True),
        (10, 19, 10, False),
        (5, 35, 10, True),
        (0, 10, 0, False),
    ],
)
def test_a_consolidation_follows_the_batch_that_completes_the_count(
    before: int, after: int, every: int, due: bool
) -> None:
    assert is_due(before, after, ConsolidationSettings(every)) == due


@pytest.mark.parametrize(
    ("after", "closing", "due"),
    [
        (9, 9, False),
        (10, 10, True),
        (19, 19, True),
        (21, 21, False),  # the last was one edit ago
        (19, 9, False),  # it brought too few of those since
        (19, 0, False),
    ],
)
def test_a_stream_ends_with_a_consolidation_where_it_brought_enough(after: int, closing: int, due: bool) -> None:
    assert is_due(after, after, ConsolidationSettings(every=20), closing) == due
    assert not is_due(after, after, ConsolidationSettings(every=0), closing)


@pytest.mark.parametrize(
    ("before", "touched"),
    [
        (3, {0, 1, 2}),  # the batch that completes the first four edits, and more
        (4, {1, 2}),
        (7, {1, 2}),
        (8, {2}),
    ],
)
def test_the_subspaces_of_the_edits_since_the_last_one_are_trained(before: int, touched: set[int]) -> None:
    assert find_touched([0, 0, 0, 0, 1, 1, 2, 2, 2], before, ConsolidationSettings(every=4)) == touched


@pytest.mark.parametrize(
    ("n_made", "every", "resting"),
    [
        (3, 4, set()),
        (4, 4, {0}),
        (6, 4, {0}),  # another is full, but will be consolidated once more
        (8, 4, {0, 1, 2}),
        (6, 0, {0, 1}),
    ],
)
def test_full_subspaces_rest_after_their_last_consolidation(n_made: int, every: int, resting: set[int]) -> None:
    assert find_resting([0, 0, 0, 0, 1, 1, 2, 2][:n_made], 2, ConsolidationSettings(every=every)) == resting


def rows_of(*edits: tuple[str, int | None, str | None], subspace: int = 0) -> list[dict[str, Any]]:
    columns = ("id", "batch", "superseded_by")
    return [dict(zip(columns, edit, strict=True)) | {"stream": 0, "subspace": subspace} for edit in edits]


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        ([], 0),
        ([("a", 0, None), ("b", 1, None)], 2),  # after the second edit, of two
        ([("a", 0, None), ("b", 0, None), ("c", 1, None), ("d", 1, None)], 2 + 4),
        ([("a", 0, "c"), ("b", 0, None), ("c", 1, None), ("d", 1, None)], 2 + 3),  # one holds no more by then
        ([("a", 0, None), ("undone", None, None), ("b", 1, None)], 2),
    ],
)
def test_steps_are_counted_from_the_ledger(rows: list[tuple[str, int | None, str | None]], steps: int) -> None:
    assert count_all_steps(rows_of(*rows), [], ConsolidationSettings(every=2, batch_size=1)) == steps


@pytest.mark.parametrize(("finished", "steps"), [(False, 0), (True, 2)])
def test_the_steps_at_the_end_of_a_stream_are_counted(finished: bool, steps: int) -> None:
    rows = rows_of(("a", 0, None), ("undone", None, None), ("b", 1, None))
    streams = [Stream(0, {}, 1, "keep", 2, finished), Stream(1, {}, 1, "keep", 0, finished)]  # all of one are undone
    assert count_all_steps(rows, streams, ConsolidationSettings(every=4, batch_size=1)) == steps


def test_steps_are_those_of_the_subspaces_that_were_trained() -> None:
    rows = rows_of(("a", 0, None), ("b", 0, None)) + rows_of(("c", 1, None), ("d", 1, None), subspace=1)
    assert count_all_steps(rows, [], ConsolidationSettings(every=2, batch_size=1)) == 2 + 2
    assert count_all_steps(rows, [], ConsolidationSettings(every=4, batch_size=1)) == 4


def edit_all(model: Path, **consolidation: int) -> Editor:
    training = {"n_rehearsed": 0, "steps": 40, "learning_rate": 0.1, "n_variants": 0}
    editor = make_editor(model, consolidation=consolidation, training=training, subspace={"rank": 8})
    for start in range(0, len(EDITS), 4):
        editor.edit(EDITS[start : start + 4])
    return editor


def test_it_brings_back_what_later_fits_took(tiny_model: Path) -> None:
    without, consolidated = (edit_all(tiny_model, every=every, passes=60, batch_size=12) for every in (0, 12))
    losses = [sum(editor.check(range(8))[0]) / 8 for editor in (without, consolidated)]
    assert losses[1] < 0.8 * losses[0]


def test_a_full_subspace_makes_place_for_another_and_stays_as_it_is(tiny_model: Path) -> None:
    conflict = {"threshold": -1, "capacity": 4, "max_subspaces": 1}
    editor = make_editor(tiny_model, conflict=conflict, consolidation={"every": 4}, training={"n_rehearsed": 4})
    editor.edit(EDITS[:4])
    full = editor.adapter.subspaces.up[0].clone()
    for start in (4, 8):
        editor.edit(EDITS[start : start + 4])
    assert editor.subspaces == [0] * 4 + [1] * 4 + [2] * 4
    assert editor.memory.rows["subspaces"].tolist() == editor.subspaces
    assert editor.memory.choose(editor.module)["subspaces"].tolist() == [2] * 4  # the others do not move
    assert torch.equal(editor.adapter.subspaces.up[0], full)
    assert not any(edit.variants for edit in editor.past)
    assert editor.trainer.global_step + editor.consolidator.global_step == 3 * 8 + 3 * 2


def test_it_trains_every_touched_subspace_and_leaves_what_is_stored(tiny_model: Path) -> None:
    editor = make_editor(tiny_model, conflict={"threshold": 0.5}, consolidation={"every": 4})
    editor.edit(EDITS[:4])
    subspaces = editor.adapter.subspaces
    assert len(subspaces) > 1
    assert set(editor.module.active) == {str(index) for index in range(len(subspaces))}
    before = [up.clone() for up in subspaces.up]
    subspaces.round_to(torch.int8)  # was rounded already
    assert all(torch.equal(up, old) for up, old in zip(subspaces.up, before, strict=True))
