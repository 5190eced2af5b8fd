"""The process that edits, called here directly."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from case_lightning.data import Edit
from case_lightning.data.checks import OnContradiction
from case_lightning.editing.ledger import Stream
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.errors import ConfigError, DataError, RunError
from case_lightning.serving.editor_process import EditorProcess, _answer, _check_finished
from tests.editing.tiny_run import load_tiny, make_edits, make_settings

EDITS = make_edits(4)


def open_editor(model: Path, path: Path, **sections: dict[str, Any]) -> EditorProcess:
    settings, folder = make_settings(model, **sections), RunFolder(path)
    folder.create(settings)
    session = Session(settings, folder, load_tiny(model))
    if not folder.started:
        session.begin(Stream(0, {"path": "edits.jsonl"}, 4, "supersede", finished=True))
    return EditorProcess(session)


def digests(editor: EditorProcess) -> list[str]:
    return [one.digest for one in editor.session.ledger.snapshots()]


def test_looking_first_changes_no_bit(tiny_model: Path, tmp_path: Path) -> None:
    plain, looked = (open_editor(tiny_model, tmp_path / name) for name in ("plain", "looked"))
    for edits in (EDITS[:2], EDITS[2:]):
        plain.add(edits, "supersede")
        looked.assess([*edits, EDITS[0]])
        looked.add(edits, "supersede")
    assert digests(plain) == digests(looked)
    assert len(set(digests(plain))) == 3


def test_a_full_subspace_conflicts_with_nothing(tiny_model: Path, tmp_path: Path) -> None:
    conflict = {"capacity": 2, "threshold": 1, "max_subspaces": 1}
    editor = open_editor(tiny_model, tmp_path / "run", conflict=conflict)
    verdicts = []
    for edit in EDITS[:3]:
        verdicts.append(editor.assess([edit]).results[0]["verdict"])
        editor.add([edit], "keep")
    assert verdicts == ["free", "conflict", "free"]


def test_edits_of_the_server_go_on_where_it_is_opened_again(tiny_model: Path, tmp_path: Path) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    editor.add(EDITS[:2], "supersede")
    before = digests(editor)[-1]
    again = open_editor(tiny_model, tmp_path / "run")
    change = again.add(EDITS[2:], "supersede")
    assert change.n_edits == 4
    again.undo([EDITS[2].id, EDITS[3].id])
    assert digests(again)[-1] == before


def test_of_two_answers_in_one_request_the_later_counts(tiny_model: Path, tmp_path: Path) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    change = editor.add([EDITS[0], Edit("later", EDITS[0].prompt, "minister")], "supersede")
    assert [one["status"] for one in change.results] == ["replaced", "added"]
    assert change.n_edits == 1


@pytest.mark.parametrize(
    ("policy", "statuses", "held"),
    [
        ("supersede", ["replaced", "added"], ["last"]),
        ("reject", ["rejected", "in ledger"], [EDITS[0].id]),
        ("keep", ["added", "in ledger"], [EDITS[0].id, "other"]),
    ],
)
def test_a_fact_that_holds_and_one_ahead_of_it_that_contradicts_it(
    tiny_model: Path, tmp_path: Path, policy: OnContradiction, statuses: list[str], held: list[str]
) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    editor.add(EDITS[:1], "supersede")
    change = editor.add([Edit("other", EDITS[0].prompt, "minister"), replace(EDITS[0], id="last")], policy)
    assert [one["status"] for one in change.results] == statuses
    assert [edit.id for edit in editor.session.editor.edits] == held


@pytest.mark.parametrize("policy", ["supersede", "keep", "reject"])
def test_an_answer_that_is_kept_beside_a_later_one_can_be_brought_back(
    tiny_model: Path, tmp_path: Path, policy: OnContradiction
) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    editor.add([EDITS[0], Edit("later", EDITS[0].prompt, "minister")], "keep")
    change = editor.add([replace(EDITS[0], id="back")], policy)
    if policy == "supersede":
        assert change.results[0]["supersedes"] == [EDITS[0].id, "later"]
        assert [edit.id for edit in editor.session.editor.edits] == ["back"]
    else:
        assert change.results[0] == {"id": "back", "status": "in ledger", "of": EDITS[0].id}


def test_of_two_answers_in_one_request_the_earlier_counts_where_later_ones_are_rejected(
    tiny_model: Path, tmp_path: Path
) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    change = editor.add([EDITS[0], Edit("later", EDITS[0].prompt, "minister")], "reject")
    assert [one["status"] for one in change.results] == ["added", "rejected"]
    assert change.results[1]["of"] == EDITS[0].id
    assert editor.session.editor.edits == EDITS[:1]


def test_ids_are_edits_own(tiny_model: Path, tmp_path: Path) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    with pytest.raises(DataError, match=r"edits\[1\].id: .* is the id of another edit; give one of its own or none"):
        editor.add([EDITS[0], EDITS[0]], "supersede")
    assert len(digests(editor)) == 1


@pytest.mark.parametrize(("holder", "at"), [("ledger", "enter"), ("editor", "check"), ("store", "write")])
def test_an_edit_that_fails_leaves_nothing_behind(
    tiny_model: Path, tmp_path: Path, holder: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in memory either: the next edit would carry it along, answered from and in no ledger."""
    editor, plain = (open_editor(tiny_model, tmp_path / name) for name in ("run", "plain"))
    for one in (editor, plain):
        one.add(EDITS[:2], "supersede")
    newer = Edit("newer", EDITS[0].prompt, "minister")
    with monkeypatch.context() as patched:
        patched.setattr(getattr(editor.session, holder), at, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            editor.add([newer], "supersede")
    assert editor.session.intact
    assert len(editor.session.ledger.streams()) == 2
    for one in (editor, plain):
        assert one.add([newer, EDITS[2]], "supersede").results[0]["status"] == "added"
    assert digests(editor) == digests(plain)
    again = open_editor(tiny_model, tmp_path / "run")
    assert again.add([Edit("newest", EDITS[0].prompt, "game")], "supersede").results[0]["supersedes"] == ["newer"]


def test_a_diverged_edit_leaves_no_stream_to_finish(tiny_model: Path, tmp_path: Path) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    editor.session.editor.module.learning_rate = 1e37
    with pytest.raises(ConfigError, match="diverged"):
        editor.add(EDITS[:2], "supersede")
    assert all(stream.finished for stream in editor.session.ledger.streams())


def test_a_client_whose_edit_diverged_is_told_what_a_client_can_do(tiny_model: Path, tmp_path: Path) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    editor.session.editor.module.learning_rate = 1e37
    answer = str(_answer(editor, "add", (EDITS[:2], "supersede")))
    assert re.fullmatch(r"the fit of edit batch 0 diverged, .*; nothing is changed; send fewer edits .*", answer)
    assert "run_dir" not in answer


def test_a_session_that_cannot_go_back_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")
    monkeypatch.setattr(editor.session.ledger, "enter", lambda *_: 1 / 0)
    monkeypatch.setattr(editor.session, "_recall", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        editor.add(EDITS[:2], "supersede")
    assert not editor.session.intact


def test_a_change_that_could_not_be_copied_into_place_is_said_to_be_made(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = open_editor(tiny_model, tmp_path / "run")

    def publish(*_: object) -> None:
        raise RunError("run_dir: the folder cannot be written (No space left on device); make room there")

    monkeypatch.setattr(editor.session.store, "publish", publish)
    answer = _answer(editor, "add", (EDITS[:1], "supersede"))
    assert str(answer) == (
        "the change is made, but the folder cannot be written (No space left on device); whoever runs the server has "
        "to see to it"
    )
    assert [edit.id for edit in editor.session.editor.edits] == [EDITS[0].id]


def test_a_run_that_was_cut_off_takes_no_edits_of_a_server(tiny_model: Path, tmp_path: Path) -> None:
    session = open_editor(tiny_model, tmp_path / "run").session
    _check_finished(session)
    session.begin(Stream(1, {"path": "more.jsonl"}, 4, "supersede"))
    with pytest.raises(RunError, match=r"an unfinished run of more.jsonl; .* or serve with --edits false"):
        _check_finished(session)
