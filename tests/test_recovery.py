"""A run that was cut off, found no room, or met another process: the same command ends with the same bits."""

import csv
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from case_lightning import fit
from case_lightning.command_line import run_verb
from case_lightning.editing.batch_log import trim_log
from case_lightning.editing.ledger import Ledger, Stream
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from tests.editing.tiny_run import command, read_ledger, save_base, write_edits

LIMITS = (0, 200, 2_000, 9_000, 20_000, 30_000, 45_000)  # bytes that a file may take


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("recovery") / "model")


@pytest.fixture(scope="module")
def data(model: Path) -> Path:
    return write_edits(model.parent / "edits.jsonl", 12)


@pytest.fixture(scope="module")
def whole(model: Path, data: Path) -> Path:
    """A run of three batches, made at one go."""
    assert call(*command(model, data, model.parent / "whole")) == 0
    return model.parent / "whole"


def call(*words: str) -> int:
    return run_verb(lambda: fit.main(list(words)))


def read_log(run: Path) -> list[dict[str, str]]:
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_same(run: Path, whole: Path) -> None:
    adapters = [(one / "adapter" / "adapter_model.safetensors").read_bytes() for one in (run, whole)]
    assert adapters[0] == adapters[1]
    assert (run / "logs" / "metrics.csv").read_bytes() == (whole / "logs" / "metrics.csv").read_bytes()
    kept = [[{**row, "seconds": 0, "created_at": 0} for row in read_ledger(one)] for one in (run, whole)]
    assert kept[0] == kept[1]


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process may grow beyond a size: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_log_has_a_row_a_batch(whole: Path) -> None:
    assert [(row["epoch"], row["step"]) for row in read_log(whole)] == [("0", "4"), ("1", "9"), ("2", "14")]
    assert len({row["loss"] for row in read_log(whole)}) == 3


@pytest.mark.parametrize("n_made", [0, 1, 2])
def test_a_batch_that_was_fitted_and_not_entered(
    n_made: int, model: Path, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, enter, made = command(model, data, tmp_path / "run"), Ledger.enter, iter(range(3))
    with monkeypatch.context() as patched:
        patched.setattr(Session, "restore", lambda *_: None)  # as where the process is killed: nothing is taken back
        patched.setattr(Ledger, "enter", lambda *args: enter(*args) if next(made) < n_made else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(*words)
    assert len(read_log(tmp_path / "run")) == n_made + 1
    assert call(*words) == 0
    check_same(tmp_path / "run", whole)


def test_a_disk_that_is_full_again_and_again(
    model: Path, data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words, stopped = command(model, data, run), 0
    for limit in LIMITS:
        capsys.readouterr()
        with limited(limit):
            code = call(*words)
        (line,) = capsys.readouterr().err.splitlines() or [""]
        assert (code, line.startswith(f"error: run_dir: {run} cannot be written (")) in ((2, True), (0, False)), line
        stopped += code == 2
    assert stopped >= 4
    assert call(*words) == 0
    check_same(run, whole)


def test_a_run_killed_before_it_wrote_its_settings(model: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "snapshots").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml.part").write_text("seed: 0\nrun_di")
    assert call(*command(model, data, tmp_path / "run")) == 0
    check_same(tmp_path / "run", whole)


def test_two_processes_that_start_on_one_folder_at_the_same_moment(
    model: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [sys.executable, "-m", "case_lightning.fit", *command(model, data, run)]
    pair = [
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in pair]
    codes = [process.returncode for process in pair]
    assert codes.count(0) >= 1, said
    if codes != [0, 0]:  # else one was so late that it found the run finished
        (line,) = said[codes.index(2)].splitlines()
        assert line.startswith(f"error: run_dir: {run} is being written by another process; wait for it to end")
    check_same(run, whole)


def test_a_log_is_trimmed_to_what_the_run_holds(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert trim_log(path, 3) is None
    path.write_text("epoch,loss,step\n0,0.5,4\n1,0.25,9\n")
    assert trim_log(path, 2) is None
    assert trim_log(path, 1) == "epoch,loss,step\r\n0,0.5,4\r\n"
    path.write_text("epoch,loss,step\n0,0.5,4\n1,0.2")  # cut off
    assert trim_log(path, 2) == "epoch,loss,step\r\n0,0.5,4\r\n"
    for text in ("", "\0", "a,b\n1,2\n"):
        path.write_text(text)
        assert trim_log(path, 0) is None


CUT_OFF = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")  # what is written goes to the file before the transaction ends
connection.execute("DELETE FROM edits")
rows = [(1000 + one,) for one in range(10_000)]
connection.executemany("INSERT INTO retention (n_edits, reliability) VALUES (?, 0.5)", rows)
os._exit(1)
"""


def test_a_ledger_whose_transaction_was_cut_off(model: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    ledger = run / "ledger.sqlite"
    subprocess.run([sys.executable, "-c", CUT_OFF, str(ledger)], check=False)  # noqa: S603
    assert ledger.read_bytes() != (whole / "ledger.sqlite").read_bytes()
    assert (run / "ledger.sqlite-journal").stat().st_size
    assert Ledger(ledger).rows() == read_ledger(whole)
    assert not (run / "ledger.sqlite-journal").exists()


def test_a_first_transaction_that_was_cut_off(tmp_path: Path) -> None:
    """No ledger at all, rather than one without tables, version or first state."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(ZeroDivisionError), ledger._transaction():
        1 / 0  # noqa: B018
    ledger.roll_back()
    assert not RunFolder(tmp_path).started
    ledger.enter_stream(Stream(0, {}, 4, "supersede"))
    assert RunFolder(tmp_path).started
