"""What the verbs share."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from case_lightning.command_line import read_settings, run_verb


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
