"""What the verbs share."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from case_lightning.command_line import read_settings, run_verb
from case_lightning.data.files import locate_data
from case_lightning.editing.run_folder import RunFolder
from case_lightning.errors import ConfigError


def test_an_interrupt_ends_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    assert run_verb(interrupt) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("words", [["--run_dir", "./config"], ["--run_dir", "myconfig"], ["--data.path", "a/config"]])
def test_a_value_that_ends_like_an_option(words: list[str]) -> None:
    settings = read_settings([*words, "--seed", "1"], "")
    assert words[1] in (settings.run_dir, settings.data.path)


def test_a_mistake_in_a_real_process(tmp_path: Path) -> None:
    words = ["-m", "case_lightning.fit", "--training.stps", "3", "--run_dir", str(tmp_path / "run")]
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)  # noqa: S603
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: unknown setting 'training.stps'; did you mean training.steps?\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training:\n  steps:\n", "training.steps: expected a value, found nothing; give one or leave the line out"),
        ("run_dir: null\n", "run_dir: expected a value, found nothing"),
        ("training.steps: 7\ntraining: {mask: none}\n", "training.steps: training is a section of this file"),
    ],
)
def test_a_file_of_settings_that_says_nothing_or_says_it_twice(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_settings(["--config", str(path)], "")


def test_what_may_be_nothing_may_be_null(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("data: {limit: null}\nbase: {layer: null}\n")
    settings = read_settings(["--config", str(path)], "")
    assert (settings.data.limit, settings.base.layer) == (None, None)


def test_a_home_is_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder("~/run").path == tmp_path / "run"
    assert locate_data("~/edits.jsonl") == str(tmp_path / "edits.jsonl")


SAY = "import sys; from case_lightning.command_line import run_verb; sys.exit(run_verb(lambda: print('a' * 100_000)))"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", SAY]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    assert result.returncode == 2
    assert result.stderr == "error: standard output cannot be written (No space left on device); make room there\n"


def test_a_reader_that_leaves_is_no_mistake() -> None:
    process = subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE


def test_other_errors_of_the_system_are_not_taken_for_it() -> None:
    with pytest.raises(OSError, match="elsewhere"):
        run_verb(lambda: (_ for _ in ()).throw(OSError(28, "elsewhere")))
