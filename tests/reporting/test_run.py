import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from case_lightning.errors import CaseError, RunError
from case_lightning.reporting import read_run
from tests.reporting.fake_run import build_edits, build_masks, build_metrics, write_run


def _change_ledger(run: Path, statement: str) -> None:
    with closing(sqlite3.connect(run / "ledger.sqlite")) as connection, connection:
        connection.execute(statement)


def test_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a-run", 40))
    assert run.name == "a-run"
    assert run.metrics.final["reliability"] == 0.974
    assert run.metrics.cost["peak_device_bytes"] is None
    assert run.metrics.retention == [tuple(point) for point in build_metrics(40)["retention"]]
    assert [edit.id for edit in run.edits] == [f"zsre-{number}" for number in range(40)]
    assert [list(edit.scores) for edit in run.edits] == [json.loads(edit["scores"]) for edit in build_edits(40)]
    ends = {number: edit.retired for number, edit in enumerate(run.edits) if edit.retired is not None}
    assert ends == {3: "superseded by zsre-39", 5: "undone"}
    assert run.edits[0].conflict_score is None
    assert len(run.answers) == 8


def test_edits_come_in_the_order_of_their_positions(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 20)
    _change_ledger(folder, "UPDATE edits SET position = 100 - position")
    assert [edit.id for edit in read_run(folder).edits] == [f"zsre-{number}" for number in reversed(range(20))]


def test_folder_whose_name_needs_quoting(tmp_path: Path) -> None:
    assert len(read_run(write_run(tmp_path / "50% of #2? ünï", 20)).edits) == 20


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.json", "{", r"metrics.json: expected JSON; Expecting property name"),
        ("metrics.json", "[]", r"metrics.json: expected an object, found \[\]"),
        ("metrics.json", "null", r"metrics.json: expected an object, found null"),
        ("metrics.json", '{"seed": "0"}', r"metrics.json: seed: expected a number or null, found '0'"),
        ("metrics.json", '{"protocol": 1}', r"metrics.json: protocol: expected a text or null, found '1'"),
        ("metrics.json", '{"pre": 1}', r"metrics.json: pre: expected an object or null, found '1'"),
        ("metrics.json", '{"final": {"locality": "1"}}', r"metrics.json: final: locality: expected a number"),
        ("metrics.json", '{"retention": {}}', r"metrics.json: retention: expected a list or null, found '{}'"),
        ("metrics.json", '{"retention": [[1]]}', r"metrics.json: retention: expected pairs of numbers, found '\[1\]'"),
        ("examples.json", "{}", r"examples.json: expected a list, found dict"),
        ("examples.json", "[{}, 3]", r"examples.json: number 1: expected an object, found int"),
        ("examples.json", '[{"edited": []}]', r"number 0: edited: expected a text or null, found '\[\]'"),
        ("ledger.sqlite", "text " * 200, r"ledger.sqlite is not a readable ledger \(file is not a database\); restore"),
        ("ledger.sqlite", "", r"ledger.sqlite has format version 0, this package reads version 2; "),
    ],
)
def test_file_that_cannot_be_used(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = write_run(tmp_path / "run", 20)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=message) as caught:
        read_run(folder)
    assert isinstance(caught.value, CaseError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scores", ["[1", "3", '{"a": 1}', '["1"]'])
def test_scores_that_are_no_numbers(tmp_path: Path, scores: str) -> None:
    folder = write_run(tmp_path / "run", 20)
    _change_ledger(folder, f"UPDATE edits SET scores = '{scores}' WHERE id = 'zsre-7'")  # noqa: S608
    with pytest.raises(RunError, match=r"edit 'zsre-7': scores: expected a JSON list of numbers"):
        read_run(folder)


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml"])
def test_text_that_is_not_utf8(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run", 20)
    (folder / name).write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunError, match=f"{name}: expected a text file in UTF-8"):
        read_run(folder)


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("absent", "expected a run folder, found nothing there"),
        ("file", "expected a run folder, found a file there"),
        ("empty", "metrics.json: expected the figures of a run, found no such file; evaluate the run first"),
    ):
        with pytest.raises(RunError, match=message):
            read_run(tmp_path / name)


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 20)
    _change_ledger(folder, "PRAGMA user_version = 99")
    with pytest.raises(RunError, match=r"ledger.sqlite has format version 99, this package reads version 2; update"):
        read_run(folder)


def test_a_report_does_not_wait_for_lightning() -> None:
    code = "import sys, case_lightning.report; sys.exit('lightning' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_masks_are_read_and_a_ledger_from_before_them_has_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 40)
    masks = read_run(folder).masks
    assert [mask.batch for mask in masks] == [0, 1, 2, 3]
    assert [mask.neurons for mask in masks] == [json.loads(mask["neurons"]) for mask in build_masks(4)]
    _change_ledger(folder, "DROP TABLE masks")
    assert read_run(folder).masks == []


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ("[1", r"mask of batch 2: expected a JSON list of counts, found '\[1'"),
        ("[-1]", r"mask of batch 2: expected a JSON list of counts, found '\[-1\]'"),
        ("[1]", r"masks: expected counts of one length, found lengths \[1, 24\]"),
    ],
)
def test_masks_that_are_no_counts(tmp_path: Path, kept: str, message: str) -> None:
    folder = write_run(tmp_path / "run", 40)
    _change_ledger(folder, f"UPDATE masks SET kept = '{kept}' WHERE batch = 2")  # noqa: S608
    with pytest.raises(RunError, match=message):
        read_run(folder)
