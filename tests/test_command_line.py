"""What the verbs share."""

from typing import Any

import pytest

from case_lightning.command_line import run_verb


def test_an_interrupt_ends_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    assert run_verb(interrupt) == 130
    assert capsys.readouterr().err == "interrupted\n"
