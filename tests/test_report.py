import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from case_lightning import reporting
from case_lightning.command_line import run_verb
from case_lightning.errors import ConfigError, RunError
from case_lightning.report import main
from tests.reporting.fake_run import write_metrics, write_run

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def _call(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "case_lightning.report", *map(str, words)]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


def test_writes_beside_the_first_run_and_prints_where(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", 40)
    result = _call(run, other)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() == str(run / "report.html")
    assert "2 runs side by side" in (run / "report.html").read_text(encoding="utf-8")
    assert not (other / "report.html").exists()


def test_writes_where_it_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "page.html"
    main([str(run), "--output", str(output)])
    assert capsys.readouterr().out == f"{output}\n"
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("missing", ["folder", "metrics"])
def test_missing_run_ends_with_one_line_and_code_2(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "absent"
    if missing == "metrics":
        folder.mkdir()
    result = _call(folder)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert str(folder) in line
    assert "expected" in line
    assert "found" in line


def test_one_bad_run_among_good_ones_writes_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    write_metrics(tmp_path / "bad", [])
    with pytest.raises(RunError, match="bad"):
        main([str(run), str(tmp_path / "bad")])
    assert not (run / "report.html").exists()


def test_unwritable_output_ends_with_code_2(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(lambda: main([str(run), "--output", str(tmp_path / "no" / "such" / "page.html")])) == 2
    assert "page.html: expected a place where the report can be written; No such file" in capsys.readouterr().err


def test_no_run_ends_with_one_line_and_code_2() -> None:
    result = _call()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: the following arguments are required: RUN\n"


def test_an_unknown_option_is_named_with_the_nearest(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'outptu'; did you mean output\?"):
        main([str(run), "--outptu", "page.html"])


def test_an_interrupt_is_no_traceback(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reporting, "write_report", interrupt)
    monkeypatch.setattr(sys, "argv", ["report", str(run)])
    monkeypatch.delitem(sys.modules, "case_lightning.report")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("case_lightning.report", run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted\n")
