"""What comes after the first edit, from the command line: going on, taking back, looking before, being killed."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from case_lightning import assess, evaluate, fit, history
from case_lightning.command_line import run_verb
from case_lightning.data import read_edits
from case_lightning.editing.history import WRITERS
from case_lightning.editing.ledger import Ledger
from case_lightning.editing.session import Session
from tests.editing.tiny_run import command, make_edits, read_json, read_ledger, save_base, write_edits

VERBS = {"fit": fit, "evaluate": evaluate, "history": history, "assess": assess}
KILLS = 25
IDS = [edit.id for edit in make_edits(12)]


def call(verb: str, *words: str | Path) -> int:
    return run_verb(lambda: VERBS[verb].main([str(word) for word in words]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("living") / "model")


@pytest.fixture(scope="module")
def whole(model: Path) -> Path:
    """A run of twelve edits in three batches, made at one go."""
    data = write_edits(model.parent / "whole.jsonl", 12)
    run = model.parent / "whole"
    assert call("fit", *command(model, data, run)) == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def read_adapter(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def read_kept(run: Path) -> list[dict[str, object]]:
    """The ledger without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "created_at")} for row in read_ledger(run)]


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_data_that_grew_and_other_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, other, run = tmp_path / "edits.jsonl", tmp_path / "other.jsonl", tmp_path / "run"
    write_edits(data, 6)
    assert call("fit", *command(model, data, run)) == 0
    write_edits(data, 8)
    assert call("fit", *command(model, data, run)) == 0
    assert "going on after record 6" in capsys.readouterr().out
    newer = {"id": IDS[0], "prompt": "The capital of Freedonia is", "target": "minister"}
    known = make_edits(12)[7].to_json()
    other.write_text(f"{json.dumps(newer)}\n{known}\n")
    assert call("fit", *command(model, other, run)) == 0
    rows = read_ledger(run)
    assert [row["id"] for row in rows] == [*IDS[:8], f"{IDS[0]}~2"]
    assert [row["stream"] for row in rows] == [0] * 6 + [1] * 2 + [2]
    assert [row["batch"] for row in rows] == [0, 0, 0, 0, 1, 1, 2, 2, 3]
    assert rows[0]["superseded_by"] == f"{IDS[0]}~2"
    metrics = read_json(run / "metrics.json")
    assert (metrics["n_edits"], metrics["n_superseded"]) == (8, 1)
    assert [point[0] for point in metrics["retention"]] == [4, 6, 8]
    data.write_text(known + "\n")
    assert call("fit", *command(model, data, run)) == 0  # nothing new in it
    assert len(read_ledger(run)) == 9


def test_new_data_comes_after_an_undo_and_the_old_command(model: Path, tmp_path: Path) -> None:
    data, other, run = write_edits(tmp_path / "a.jsonl", 4), tmp_path / "b.jsonl", tmp_path / "run"
    assert call("fit", *command(model, data, run)) == 0
    assert call("history", run, "undo", IDS[1]) == 0
    assert call("fit", *command(model, data, run)) == 0  # has nothing left to make, scores what holds
    assert read_json(run / "metrics.json")["n_edits"] == 3
    other.write_text(make_edits(12)[7].to_json() + "\n")
    assert call("fit", *command(model, other, run)) == 0
    assert [row["stream"] for row in read_ledger(run)] == [0] * 4 + [1]


def test_an_unfinished_run_goes_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other, run = write_edits(tmp_path / "a.jsonl", 12), write_edits(tmp_path / "b.jsonl", 3), tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "enter", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call("fit", *command(model, data, run))
    capsys.readouterr()
    assert call("fit", *command(model, other, run)) == 2
    assert "holds an unfinished run of" in read_error(capsys)
    text = data.read_text()
    write_edits(data, 12)
    assert call("fit", *command(model, data, run)) == 0
    assert data.read_text() == text


def test_a_run_that_was_cut_off_can_end_there_and_be_taken_up_later(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other, run = write_edits(tmp_path / "a.jsonl", 12), tmp_path / "b.jsonl", tmp_path / "run"
    other.write_text(replace(make_edits(1)[0], prompt="Who founded the newspaper?", subject=None).to_json() + "\n")
    enter, made = Ledger.enter, []

    def enter_once(self: Ledger, *arguments: Any) -> None:
        if made:
            raise ZeroDivisionError
        made.append(arguments)
        enter(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "enter", enter_once)
        with pytest.raises(ZeroDivisionError):
            call("fit", *command(model, data, run))
    assert call("fit", *command(model, other, run)) == 2
    assert f"history {run} close" in read_error(capsys)
    assert call("history", run, "close") == 0
    assert "ended where it was cut off" in capsys.readouterr().out
    assert call("history", run, "close") == 0
    assert "was not cut off" in capsys.readouterr().out
    assert call("fit", *command(model, other, run)) == 0
    assert [row["stream"] for row in read_ledger(run)] == [0] * 4 + [1]
    assert call("fit", *command(model, data, run)) == 0
    assert [row["stream"] for row in read_ledger(run)] == [0] * 4 + [1] + [2] * 8
    assert len({row["id"] for row in read_ledger(run)}) == 13


def test_data_that_was_cut_to_what_was_made_ends_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = write_edits(tmp_path / "a.jsonl", 12), tmp_path / "run"
    edit = Session.edit
    with monkeypatch.context() as patched:
        patched.setattr(Session, "edit", lambda *given: 1 / 0 if given[0].n_batches else edit(*given))
        with pytest.raises(ZeroDivisionError):
            call("fit", *command(model, data, run))
    write_edits(data, 4)
    assert call("fit", *command(model, data, run)) == 0
    assert [stream.finished for stream in Ledger(run / "ledger.sqlite").streams()] == [True]
    write_edits(data, 8)
    assert call("fit", *command(model, data, run)) == 0
    assert [row["stream"] for row in read_ledger(run)] == [0] * 4 + [1] * 4


def test_data_that_changed(model: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = model.parent / "whole.jsonl"
    before = data.read_text()
    words = [word if word != str(model.parent / "whole") else str(run) for word in command(model, data, run)]
    (run / "metrics.json").unlink()
    data.write_text(before.replace("Freeville", "minister"))
    try:
        assert call("fit", *words) == 2
    finally:
        data.write_text(before)
    assert "is not what it was when the run began" in read_error(capsys)


def test_undo_and_redo(run: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("history", run, "undo", "--since", 2) == 0
    assert "4 edits undone, 8 hold" in capsys.readouterr().out
    assert not (run / "metrics.json").exists()  # they were another model's
    assert call("history", run, "undo", IDS[1]) == 0
    assert [row["id"] for row in read_ledger(run) if row["undone_at"]] == [IDS[1], *IDS[8:]]
    assert call("history", run, "list") == 0
    assert capsys.readouterr().out.count("holds") == 7
    assert call("history", run, "redo", IDS[1], *IDS[8:]) == 0
    assert read_adapter(run) == read_adapter(whole)
    assert read_kept(run) == read_kept(whole)


@pytest.mark.filterwarnings("ignore:.*edits dropped")
def test_undoing_batches_brings_nothing_to_life(model: Path, tmp_path: Path) -> None:
    edits = make_edits(6)
    newer = replace(edits[4], id="newer", target="minister")
    data = tmp_path / "edits.jsonl"
    data.write_text("".join(edit.to_json() + "\n" for edit in [*edits, newer]))
    assert call("fit", *command(model, data, tmp_path / "run")) == 0
    assert [row["left_out"] for row in read_ledger(tmp_path / "run")] == [None] * 4 + [1, None, None]
    assert call("history", tmp_path / "run", "undo", "--since", 1) == 0
    assert [one.id for one in Ledger(tmp_path / "run" / "ledger.sqlite").edits()] == IDS[:4]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_an_export_is_data(
    ending: str, model: Path, run: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"edits{ending}"
    assert call("history", run, "export", file) == 0
    assert "12 edits written" in capsys.readouterr().out
    assert call("fit", *command(model, file, tmp_path / "again")) == 0
    assert read_adapter(tmp_path / "again") == read_adapter(whole)


def test_a_table_keeps_every_line_end(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    prompt = 'one\rtwo\nthree\r\nfour, "five" of'
    WRITERS[".csv"](Dataset.from_list([{"prompt": prompt, "target": "t", "subject": None}]), str(path))
    assert [(edit.prompt, edit.subject) for edit in read_edits(path)] == [(prompt, None)]


def test_an_export_has_the_edits_that_hold(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "edits.jsonl"
    assert call("history", run, "undo", IDS[1]) == 0
    assert call("history", run, "export", file) == 0
    assert "11 of 12 edits written" in capsys.readouterr().out
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [*IDS[:1], *IDS[2:]]
    assert call("history", run, "export", file, "--all") == 0
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == list(IDS)


def test_what_history_shows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("history", run, "search", "GENOVIA") == 0
    assert "1 of 12 edits" in capsys.readouterr().out
    assert call("history", run, "show", IDS[4]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Genoville", "conflict_score", "supersedes", "Where in Genovia"))
    other = Path(shutil.copytree(run, tmp_path / "other"))
    assert call("history", other, "undo", IDS[11]) == 0
    capsys.readouterr()
    assert call("history", run, "diff", other) == 0
    shown = capsys.readouterr().out
    assert "11 edits are the same" in shown
    assert "Molvania" in shown


def test_an_undone_fact_is_passed_over_and_assess_says_so(
    model: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("history", run, "undo", IDS[11]) == 0
    capsys.readouterr()
    edits = make_edits(12)
    again = tmp_path / "again.jsonl"
    again.write_text("".join(edit.to_json() + "\n" for edit in (edits[11], replace(edits[0], target="minister"))))
    assert call("assess", "--run", run, "--data.path", again, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["verdict"], one["of"]) for one in found] == [("undone", IDS[11]), ("contradicts", IDS[0])]
    assert call("fit", *command(model, again, run, "--on_contradiction", "reject")) == 0
    shown = capsys.readouterr().out
    assert "1 record passed over: in the ledger already" in shown
    assert "1 edit left out, as another holds that asks the same" in shown


def test_a_run_without_its_adapter_is_scored_by_its_snapshot(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_json(run / "metrics.json")
    shutil.rmtree(run / "adapter")
    assert call("evaluate", "--run", run) == 0
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert read_json(run / "metrics.json")["final"] == before["final"]


def test_a_report_that_is_missing_is_written(model: Path, run: Path, whole: Path) -> None:
    """As where a run was killed right before it."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"run_dir: {whole}", f"run_dir: {run}"))
    (run / "report.html").unlink()
    stamp = (run / "metrics.json").stat().st_mtime_ns
    assert call("fit", *command(model, model.parent / "whole.jsonl", run)) == 0
    assert "reliability" in (run / "report.html").read_text()
    assert (run / "metrics.json").stat().st_mtime_ns == stamp


def test_what_assess_says(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    facts = [("The capital of Genovia is", "minister"), ("The capital of Sylvania is", "old Sylvville"), ("The", "old")]
    lines = [json.dumps({"prompt": prompt, "target": target}) for prompt, target in facts]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    assert call("assess", "--run", run, "--data.path", tmp_path / "new.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["verdict"] for one in found[:2]] == ["contradicts", "in ledger"]
    assert found[0]["contradicts"] == [IDS[4]]
    assert found[1]["in_ledger"] == [IDS[1]]
    assert [one["answered_by"] for one in found] == [IDS[4], IDS[1], None]
    assert found[2]["verdict"] in ("free", "conflict")
    assert all(len(one["conflict"]) == read_json(run / "metrics.json")["cost"]["subspaces"] for one in found)
    assert call("assess", "--run", run, "--data.path", tmp_path / "new.jsonl") == 0
    assert "1 contradicts, 1 in ledger" in capsys.readouterr().out
    named = [json.dumps({"q": prompt, "a": target}) for prompt, target in [*facts, ("nothing", "")]]
    (tmp_path / "named.jsonl").write_text("\n".join(named))
    words = ["--data.columns.prompt", "q", "--data.columns.target", "a", "--data.on_error", "skip"]
    with pytest.warns(UserWarning, match="1 of 4 records"):
        assert call("assess", "--run", run, "--data.path", tmp_path / "named.jsonl", *words) == 0
    assert "1 contradicts, 1 in ledger" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == stamps


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none", "list"], "none holds no readable run"),
        (["RUN", "frobnicate"], "frobnicate"),
        (["RUN", "undo"], "expected ids of edits or --since BATCH"),
        (["RUN", "undo", "a", "--since", "1"], "expected ids of edits or --since BATCH"),
        (["RUN", "redo", "--since", "1"], "--since: expected with undo, found with redo"),
        (["RUN", "undo", "nobody"], "'nobody' is not the id of an edit"),
        (["RUN", "redo", IDS[0]], "is not the id of an undone edit"),
        (["RUN", "undo", "--since", "9"], "has no batch 9"),
        (["RUN", "show", "nobody"], "'nobody' is not the id of an edit"),
        (["RUN", "show"], "expected an edit's id, found nothing"),
        (["RUN", "export", "edits.txt"], "expected a file that ends in .jsonl, .csv, .parquet"),
        (["RUN", "export", "no/folder/edits.csv"], "cannot be written"),
        (["RUN", "list", "more"], "expected nothing more"),
        (["RUN", "list", "--since", "1"], "--since: expected with undo"),
    ],
)
def test_mistakes(words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("history", *(run if word == "RUN" else word for word in words)) == 2
    assert said in read_error(capsys)


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(model: Path, whole: Path, tmp_path: Path) -> None:
    """A real process, killed again and again at random moments; each time the next one goes on."""
    run, draw = tmp_path / "run", random.Random(0)  # noqa: S311
    words = [sys.executable, "-m", "case_lightning.fit", *command(model, model.parent / "whole.jsonl", run)]
    started = time.monotonic()
    assert subprocess.run([*words[:-2], "--help"], capture_output=True, check=False).returncode == 0  # noqa: S603
    startup = time.monotonic() - started
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        time.sleep(draw.uniform(startup, 6 * startup))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if (run / "metrics.json").exists():
            break
        if (run / "ledger.sqlite").exists() and (snapshots := Ledger(run / "ledger.sqlite").snapshots()):
            rows = [row for row in read_ledger(run) if row["batch"] is not None]
            assert max((row["batch"] + 1 for row in rows), default=0) == snapshots[-1].n_batches
    assert killed
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0  # noqa: S603
    assert read_adapter(run) == read_adapter(whole)
    assert read_kept(run) == read_kept(whole)
    mine, theirs = (read_json(one / "metrics.json") for one in (run, whole))
    assert {k: v for k, v in mine.items() if k != "cost"} == {k: v for k, v in theirs.items() if k != "cost"}
    found = yaml.safe_load((run / "config.yaml").read_text())
    assert found | {"run_dir": ""} == yaml.safe_load((whole / "config.yaml").read_text()) | {"run_dir": ""}
