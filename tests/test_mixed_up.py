"""Data and ledgers that are not what a finished run was made with."""

import shutil
from pathlib import Path

import pytest

from tests.editing.tiny_run import command, save_base, write_edits
from tests.test_living import IDS, call, read_error


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("mixed_up") / "model")


def test_a_bad_record_behind_a_finished_run_is_an_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_edits(tmp_path / "edits.jsonl", 4), tmp_path / "run"
    assert call("fit", *command(model, data, run)) == 0
    with data.open("a") as file:
        file.write('{"prompt": "The capital of Genovia is"}\n')
    capsys.readouterr()
    assert call("fit", *command(model, data, run)) == 2
    assert "record 4" in read_error(capsys)
    data.unlink()
    assert call("fit", *command(model, data, run)) == 0  # its results are shown again without it


def test_a_writer_leaves_what_belongs_to_another_ledger(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert call("fit", *command(model, write_edits(tmp_path / "whole.jsonl", 12), run)) == 0
    assert call("fit", *command(model, write_edits(tmp_path / "edits.jsonl", 4), other)) == 0
    own = (run / "ledger.sqlite").read_bytes()
    before = {path: path.stat().st_size for path in run.rglob("*") if path.suffix in (".safetensors", ".json")}
    shutil.copyfile(other / "ledger.sqlite", run / "ledger.sqlite")
    capsys.readouterr()
    assert call("history", run, "undo", IDS[0]) == 2
    assert "restore it, or the ledger that goes with the states" in read_error(capsys)
    (run / "ledger.sqlite").write_bytes(own)
    assert {path: path.stat().st_size for path in before} == before
    assert call("history", run, "undo", IDS[11]) == 0


def test_a_writer_does_not_go_on_from_an_older_ledger(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_edits(tmp_path / "edits.jsonl", 6), tmp_path / "run"
    assert call("fit", *command(model, data, run)) == 0
    older = (run / "ledger.sqlite").read_bytes()
    assert call("fit", *command(model, write_edits(data, 10), run)) == 0
    newer, states = (run / "ledger.sqlite").read_bytes(), sorted((run / "snapshots").iterdir())
    (run / "ledger.sqlite").write_bytes(older)
    capsys.readouterr()
    assert call("history", run, "undo", IDS[0]) == 2
    assert "is a state that the ledger does not name; restore the run's last ledger" in read_error(capsys)
    assert sorted((run / "snapshots").iterdir()) == states
    (run / "ledger.sqlite").write_bytes(newer)
    assert call("history", run, "undo", IDS[9]) == 0
