"""An open run: cut off and resumed, gone on with, undone and redone. The same edits always leave the same bits."""

import shutil
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from case_lightning.data import Edit
from case_lightning.editing import loading
from case_lightning.editing.ledger import Ledger, Stream
from case_lightning.editing.loading import find_adapter
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.editing.store import digest_of, is_kept
from case_lightning.errors import ConfigError, RunError
from case_lightning.reporting.masks import read_masks
from tests.editing.tiny_run import load_tiny, make_edits, make_settings, read_ledger

EDITS = make_edits(12)
STREAM = Stream(0, {"path": "edits.jsonl"}, batch_size=4, on_contradiction="supersede")
TIMES = ("seconds", "created_at", "undone_at")


def open_session(model: Path, path: Path, **sections: dict[str, Any]) -> Session:
    settings = make_settings(model, **sections)
    folder = RunFolder(path)
    folder.create(settings)
    return Session(settings, folder, load_tiny(model))


def write(session: Session, edits: Sequence[Edit], stream: Stream = STREAM, finish: bool = True) -> Session:
    """Make edits in the batches of a stream, to its end or not."""
    session.begin(stream)
    for end in range(stream.batch_size, len(edits) + stream.batch_size, stream.batch_size):
        after = replace(stream, finished=finish and end >= len(edits))
        session.edit(edits[end - stream.batch_size : end], after, point=True)
    return session


def state_of(session: Session, ids: bool = True) -> dict[str, Any]:
    """Everything that two runs of the same edits have in common; without ids, edits are told by their prompts alone."""
    folder = session.folder
    rows = [row for row in read_ledger(folder.path) if not row["undone_at"]]
    dropped = (*TIMES, "position") if ids else (*TIMES, "position", "id", "record", "stream")
    last = session.ledger.snapshots()[-1]
    return {
        "adapter": (folder.adapter / "adapter_model.safetensors").read_bytes(),
        "training": (folder.snapshots / last.name / "training.safetensors").read_bytes(),
        "rows": [{key: value for key, value in row.items() if key not in dropped} for row in rows],
        "retention": session.ledger.retention()[-1:],
        "masks": read_masks(folder.ledger),
    }


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"subspace": {"tune_input": True}},
        {"training": {"mask": "random"}},
        {"subspace": {"storage_dtype": "float16"}, "memory": {"size": 3}},
        {"conflict": {"threshold": 0.5}},
        {"consolidation": {"every": 0}},
        {"conflict": {"threshold": -1, "capacity": 3}},
    ],
    ids=[
        "default",
        "tuned input",
        "random mask",
        "float16, small memory",
        "several subspaces",
        "no consolidation",
        "full subspaces",
    ],
)
def test_a_resumed_run_ends_as_one_that_was_not_cut_off(
    tiny_model: Path, tmp_path: Path, sections: dict[str, dict[str, Any]]
) -> None:
    whole = write(open_session(tiny_model, tmp_path / "whole", **sections), EDITS)
    write(open_session(tiny_model, tmp_path / "cut", **sections), EDITS[:4], finish=False)
    resumed = open_session(tiny_model, tmp_path / "cut", **sections)
    assert [edit.id for edit in resumed.editor.edits] == [edit.id for edit in EDITS[:4]]
    for start in (4, 8):
        resumed.edit(EDITS[start : start + 4], replace(STREAM, finished=start == 8), point=True)
        resumed = open_session(tiny_model, tmp_path / "cut", **sections)
    assert state_of(resumed) == state_of(whole)


@pytest.mark.parametrize("every", [5, 16], ids=["consolidated within the stream", "at its end"])
@pytest.mark.parametrize("gone", [[0], [5], [11], [2, 6, 7], [8, 9, 10, 11], list(range(12))], ids=str)
def test_undone_edits_leave_no_trace(tiny_model: Path, tmp_path: Path, gone: list[int], every: int) -> None:
    kept = [edit for index, edit in enumerate(EDITS) if index not in gone]
    sections = {"consolidation": {"every": every}}
    never = write(open_session(tiny_model, tmp_path / "never", **sections), kept)
    session = write(open_session(tiny_model, tmp_path / "run", **sections), EDITS)
    before = state_of(session)
    session.undo([EDITS[index].id for index in gone])
    assert state_of(session) == state_of(never)
    assert [row["id"] for row in read_ledger(tmp_path / "run")] == [edit.id for edit in EDITS]
    session = open_session(tiny_model, tmp_path / "run", **sections)
    assert [edit.id for edit in session.editor.edits] == [edit.id for edit in kept]
    session.redo([EDITS[index].id for index in gone])
    assert state_of(session) == before


def test_a_stream_ends_with_a_consolidation_whatever_its_last_batch_is(tiny_model: Path, tmp_path: Path) -> None:
    sections = {"consolidation": {"every": 16}}
    plain = write(open_session(tiny_model, tmp_path / "plain", **sections), EDITS)
    session = open_session(tiny_model, tmp_path / "run", **sections)
    stream = replace(STREAM, on_contradiction="reject")
    session.begin(stream)
    for start in range(0, 12, 4):
        session.edit(EDITS[start : start + 4], stream, point=True)
    assert state_of(session)["adapter"] != state_of(plain)["adapter"]
    assert session.edit([replace(EDITS[1], id="rejected")], replace(stream, finished=True)) is None
    assert state_of(session)["adapter"] == state_of(plain)["adapter"]
    assert len(list(session.folder.snapshots.iterdir())) == len(session.ledger.snapshots())
    before = session.editor.state()
    session.undo([EDITS[9].id])
    session.redo([EDITS[9].id])
    after = session.editor.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_stream_does_not_end_with_a_second_consolidation(tiny_model: Path, tmp_path: Path) -> None:
    session = open_session(tiny_model, tmp_path / "run", consolidation={"every": 4})
    stream = replace(STREAM, on_contradiction="reject", batch_size=6)
    session.begin(stream)
    session.edit(EDITS[:6], stream)
    steps = session.editor.consolidator.global_step
    assert steps == 2
    assert session.edit([replace(EDITS[1], id="rejected")], replace(stream, finished=True)) is None
    assert session.editor.consolidator.global_step == steps


def test_few_edits_end_without_a_consolidation(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run", consolidation={"every": 16}), EDITS[:7])
    write(session, EDITS[7:], replace(STREAM, number=1))  # twelve in all, but neither stream brought eight
    assert session.editor.consolidator.global_step == 0


def test_a_newer_answer_supersedes_and_its_undoing_brings_the_older_back(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:8])
    before = state_of(session)
    newer = replace(EDITS[1], id="newer", target="minister")
    later = write(session, [newer, EDITS[9]], replace(STREAM, number=1))
    rows = {row["id"]: row for row in read_ledger(tmp_path / "run")}
    assert rows[EDITS[1].id]["superseded_by"] == "newer"
    assert [edit.id for edit in later.ledger.edits()].count(EDITS[1].id) == 0
    assert len(later.editor.edits) == len(later.editor.past) == len(later.editor.n_keys) == 9
    assert sum(later.editor.n_keys) == len(later.editor.adapter.keys)
    reopened = open_session(tiny_model, tmp_path / "run")
    assert [edit.id for edit in reopened.editor.edits] == [edit.id for edit in later.editor.edits]
    assert reopened.editor.n_keys == later.editor.n_keys
    reopened.undo(["newer", EDITS[9].id])
    assert state_of(reopened) == before


def test_an_undone_batch_leaves_no_point_of_the_curve(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4])
    newer = [replace(edit, id=f"newer-{edit.id}", target="minister") for edit in EDITS[:2]]
    write(session, newer, replace(STREAM, number=1))
    write(session, EDITS[4:6], replace(STREAM, number=2))
    assert [count for count, _ in session.ledger.retention()] == [4, 6]
    session.undo([newer[0].id])
    assert [count for count, _ in session.ledger.retention()] == [6]  # the first was one with both newer answers


def test_policies_for_contradictions(tiny_model: Path, tmp_path: Path) -> None:
    newer = replace(EDITS[1], id="newer", target="minister")
    for policy, ids in (("keep", [EDITS[0].id, EDITS[1].id, "newer"]), ("reject", [EDITS[0].id, EDITS[1].id])):
        session = write(open_session(tiny_model, tmp_path / policy), EDITS[:2])
        stream = replace(STREAM, number=1, on_contradiction=policy)
        session.begin(stream)
        outcome = session.edit([newer], stream)
        assert (outcome is None) == (policy == "reject")
        assert [edit.id for edit in session.ledger.edits()] == ids
        assert all(row["superseded_by"] is None for row in read_ledger(tmp_path / policy))


def test_a_diverging_fit_is_taken_back(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4], finish=False)
    before = state_of(session)
    session.editor.module.learning_rate = 1e37
    with pytest.raises(ConfigError, match=r"edit batch 1 diverged, its loss went from .* lower training.learning_rate"):
        session.edit(EDITS[4:8], STREAM)
    assert state_of(session) == before
    session.edit(EDITS[4:8], STREAM, point=True)
    session.edit(EDITS[8:], STREAM, point=True)
    whole = write(open_session(tiny_model, tmp_path / "whole"), EDITS, finish=False)
    assert state_of(session) == state_of(whole)


class Interrupt(Callback):
    """The user's Ctrl-C, or the system's request to end, in the second step of a fit."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        if i == 1:
            raise self.kind


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_fit_that_is_interrupted_ends_at_once_and_the_run_goes_on_later(
    tiny_model: Path, tmp_path: Path, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    session = write(open_session(tiny_model, tmp_path / "cut"), EDITS[:4], finish=False)
    session.editor.trainer.callbacks.append(Interrupt(kind))
    restored: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(Session, "restore", lambda *_: restored.append(1))
        with pytest.raises(kind):
            session.edit(EDITS[4:8], STREAM)
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it off
    assert not restored
    assert not session.intact
    resumed = open_session(tiny_model, tmp_path / "cut")
    resumed.edit(EDITS[4:8], STREAM, point=True)
    whole = write(open_session(tiny_model, tmp_path / "whole"), EDITS[:8], finish=False)
    assert state_of(resumed) == state_of(whole)


@pytest.mark.parametrize("at", ["write", "enter", "publish", "replace_adapter", "_thin"])
def test_a_failure_at_each_commit_point(
    tiny_model: Path, tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step fails, the next process finds the batch made or not made, and ends with the same bits."""
    whole = write(open_session(tiny_model, tmp_path / "whole"), EDITS, finish=False)
    session = write(open_session(tiny_model, tmp_path / "cut"), EDITS[:4], finish=False)
    holder = next(one for one in (session.store, session.ledger, session.folder) if hasattr(one, at))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(holder, at, fail)
        with pytest.raises(RunError, match=r"cannot be written \(No space left on device\); make room there"):
            session.edit(EDITS[4:8], STREAM, point=True)
    known = session.editor.edits, session.editor.n_keys, len(session.editor.adapter.keys)
    resumed = open_session(tiny_model, tmp_path / "cut")
    assert known == (resumed.editor.edits, resumed.editor.n_keys, len(resumed.editor.adapter.keys))
    done = len(resumed.editor.edits)
    assert done == (4 if at in ("write", "enter") else 8)
    assert {path.name for path in (tmp_path / "cut").iterdir()} <= {
        "config.yaml", "adapter", "ledger.sqlite", "snapshots", "logs"
    }  # fmt: skip
    for start in range(done, 12, 4):
        resumed.edit(EDITS[start : start + 4], replace(STREAM, finished=start == 8), point=True)
    assert state_of(resumed) == state_of(whole)


def test_mistakes(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4])
    with pytest.raises(RunError, match="'none' is not the id of an edit"):
        session.undo(["none"])
    with pytest.raises(RunError, match="is not the id of an undone edit"):
        session.redo([EDITS[0].id])
    session.undo([EDITS[0].id])
    with pytest.raises(RunError, match="is undone already"):
        session.undo([EDITS[0].id])


def test_states_that_are_kept() -> None:
    kept: set[int] = set()
    for last in range(1000):
        kept = {index for index in kept | {last} if is_kept(index, last)}
        assert kept == {index for index in range(last + 1) if is_kept(index, last)}  # none that is wanted later went
    assert max(kept) == 999
    assert len(kept) < 24
    gaps = [(later - earlier) / (1000 - later) for earlier, later in zip(sorted(kept), sorted(kept)[1:], strict=False)]
    assert max(gaps) <= 1  # to take an edit back, at most twice as much is made again as came after it


def test_where_a_reader_finds_the_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """It is there, whole and the right one, whenever a run was cut off; one that was tampered with is refused."""
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:8])
    folder, ledger = session.folder, session.ledger
    last = folder.snapshots / ledger.snapshots()[-1].name
    file = folder.adapter / "adapter_model.safetensors"
    assert find_adapter(folder, ledger) == last  # no writer changes it while it is read
    older = (folder.snapshots / ledger.snapshots()[-2].name / file.name).read_bytes()
    file.unlink()
    assert find_adapter(folder, ledger) == last
    file.write_bytes(older)
    assert find_adapter(folder, ledger) == last
    file.write_bytes(older[:-1] + b"?")
    with pytest.raises(RunError, match="is not the one that the ledger names"):
        find_adapter(folder, ledger)
    session.store.recover()
    assert find_adapter(folder, ledger) == last
    shutil.rmtree(last)
    assert find_adapter(folder, ledger) == folder.adapter


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "training.safetensors"])
def test_a_state_that_is_gone_or_broken(tiny_model: Path, tmp_path: Path, name: str) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4])
    file = session.store.path(session.store.find()) / name
    file.write_bytes(b"broken")
    with pytest.raises(RunError, match="restore it from a copy"):
        open_session(tiny_model, tmp_path / "run")


def test_a_state_is_the_same_whatever_is_done_to_the_adapter_folder(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4])
    state = session.store.path(session.store.find())
    for file in session.folder.adapter.iterdir():
        before = (state / file.name).read_bytes()
        file.write_bytes(b"written over")
        assert (state / file.name).read_bytes() == before
    file.unlink()
    open_session(tiny_model, tmp_path / "run")
    assert digest_of(session.folder.adapter) == session.store.find().digest


def test_what_is_no_state_stays_in_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4])
    states = session.folder.snapshots
    (states / "my copy").mkdir()
    (states / ".DS_Store").write_text("")
    for left in ("writing.part", "000009-0123abcd-0123abcd"):
        (states / left).mkdir()
    before = session.editor.edits
    assert open_session(tiny_model, tmp_path / "run").editor.edits == before
    assert {"my copy", ".DS_Store"} <= {path.name for path in states.iterdir()}
    assert not {"writing.part", "000009-0123abcd-0123abcd"} & {path.name for path in states.iterdir()}


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with first.locked(), pytest.raises(RunError, match="is being written by another process"), second.locked():
        pass
    assert not first.path.exists()  # nothing came of either


def test_every_batch_notes_its_mask_and_an_older_ledger_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run", conflict={"max_subspaces": 1}), EDITS[:8])
    masks = read_masks(session.folder.ledger)
    assert [(mask.batch, sum(mask.neurons)) for mask in masks] == [(0, 4), (1, 4)]
    last = session.editor.masks[0]
    (name,) = last.masks
    found, kept = last.sensitivities[name], last.masks[name]
    assert sum(masks[1].kept) == kept.sum()
    assert masks[1].threshold == pytest.approx((found[kept].min() / found.mean()).item())
    assert masks[1].share == pytest.approx((found[kept].sum() / found.sum()).item())
    with closing(sqlite3.connect(session.folder.ledger)) as connection, connection:
        connection.execute("DROP TABLE masks")  # as a run of before they were noted has it
        connection.execute("ALTER TABLE retention DROP COLUMN batch")
    resumed = open_session(tiny_model, tmp_path / "run", conflict={"max_subspaces": 1})
    assert read_masks(session.folder.ledger) == []
    resumed.edit(EDITS[8:], STREAM, point=True)
    assert [mask.batch for mask in read_masks(session.folder.ledger)] == [2]
    resumed.undo([EDITS[9].id])
    assert [count for count, _ in resumed.ledger.retention()] == [4, 8, 11]


def test_a_reader_takes_all_of_one_state(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a batch is made after it looked for the adapter and before it read which edits hold."""
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS[:4])
    find, n_calls = loading.find_adapter, 0

    def find_and_edit(folder: RunFolder, ledger: Ledger) -> Path:
        nonlocal n_calls
        n_calls, found = n_calls + 1, find(folder, ledger)
        if n_calls == 2:
            session.edit(EDITS[4:8], replace(STREAM, finished=True), point=True)
        return found

    monkeypatch.setattr(loading, "find_adapter", find_and_edit)
    run = loading.load_run(tmp_path / "run")
    assert n_calls == 3
    assert run.adapter == run.state == session.store.path(session.store.find())
    assert [edit.id for edit in run.edits] == [row["id"] for row in run.rows] == [edit.id for edit in EDITS[:8]]
