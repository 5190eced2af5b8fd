"""An undo that fails or is cut off leaves the run as it was, and one that is made leaves nothing on disk."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import Tensor

from case_lightning.base.suffix import Prefix
from case_lightning.editing.ledger import Ledger
from case_lightning.editing.loading import find_adapter
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.editing.store import digest_of
from tests.editing.test_session import EDITS, open_session, state_of, write


def read_log(session: Session) -> list[str]:
    return (session.folder.logs / "metrics.csv").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("holder", "at"), [("self", "_check_outcome"), ("ledger", "rewrite")])
def test_an_undo_that_fails_leaves_the_run(
    tiny_model: Path, tmp_path: Path, holder: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS)
    before, log = state_of(session), read_log(session)
    with monkeypatch.context() as patched:
        patched.setattr(session if holder == "self" else session.ledger, at, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.undo([EDITS[0].id])
    assert state_of(session) == before
    assert read_log(session) == log
    assert [edit.id for edit in session.editor.edits] == [edit.id for edit in EDITS]
    session.undo([EDITS[0].id])
    assert len(session.editor.edits) == 11
    assert len(read_log(session)) == len(log)


def test_an_undo_that_is_cut_off_leaves_the_log(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS)
    log = read_log(session)

    def end(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(session, "_measure_retention", end)
    with pytest.raises(SystemExit):
        session.undo([EDITS[0].id])
    assert read_log(open_session(tiny_model, tmp_path / "run")) == log
    assert [path.name for path in (tmp_path / "run" / "logs").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("at", ["rewrite", "publish", "replace_adapter", "_thin", "recover"])
def test_readers_have_the_adapter_wherever_an_undo_is_cut_off(
    tiny_model: Path, tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(open_session(tiny_model, tmp_path / "whole"), EDITS)
    whole.undo([EDITS[5].id])
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS)
    holder = next(one for one in (session.store, session.ledger, session.folder) if hasattr(one, at))

    def end(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(holder, at, end)
        with pytest.raises(SystemExit):
            session.undo([EDITS[5].id])
    folder = RunFolder(tmp_path / "run")
    ledger = Ledger(folder.ledger)
    assert digest_of(find_adapter(folder, ledger)) == ledger.snapshots()[-1].digest
    again = open_session(tiny_model, tmp_path / "run")
    if at == "rewrite":
        again.undo([EDITS[5].id])
    assert state_of(again) == state_of(whole)
    assert read_log(again) == read_log(whole)
    assert [path.name for path in folder.logs.iterdir()] == ["metrics.csv"]


def test_readers_have_the_adapter_where_the_end_of_a_stream_is_cut_off(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that the last consolidation makes takes the place of the one before it."""
    session = write(open_session(tiny_model, tmp_path / "run", consolidation={"every": 16}), EDITS, finish=False)
    before = digest_of(session.folder.adapter)

    def end(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(session.store, "publish", end)
    with pytest.raises(SystemExit):
        session.close()
    found = digest_of(find_adapter(session.folder, session.ledger))
    assert found == session.ledger.snapshots()[-1].digest != before


def test_undone_batches_leave_no_state(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS)
    for edit in EDITS[:3]:
        session.undo([edit.id])
        listed = {one.name for one in session.ledger.snapshots()}
        assert {path.name for path in session.folder.snapshots.iterdir()} == listed


def test_an_undo_runs_the_frozen_layers_on_what_is_made_again_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = write(open_session(tiny_model, tmp_path / "run"), EDITS)
    never = write(open_session(tiny_model, tmp_path / "never"), EDITS[:-1])
    n_run = 0
    run = Prefix.__call__

    def count(prefix: Prefix, sequences: Sequence[Tensor]) -> list[Tensor]:
        nonlocal n_run
        n_run += len(sequences)
        return run(prefix, sequences)

    monkeypatch.setattr(Prefix, "__call__", count)
    session.undo([EDITS[-1].id])
    last = [text for edit in session.editor.past[8:] for kind in edit.kinds for text in kind]
    assert 0 < n_run - len(last) < 8  # a few beside: what a model is tried on, at each opening
    assert state_of(session)["adapter"] == state_of(never)["adapter"]
