import subprocess
import sys
from pathlib import Path

import pytest

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
    assert main([str(run), "--output", str(output)]) == 0
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
    assert main([str(run), str(tmp_path / "bad")]) == 2
    assert not (run / "report.html").exists()


def test_unwritable_output_ends_with_code_2(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--output", str(tmp_path / "no" / "such" / "page.html")]) == 2
    assert "page.html: expected a place where the report can be written; No such file" in capsys.readouterr().err


def test_no_run_is_an_error_of_usage() -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
