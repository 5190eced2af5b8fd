"""A chat on a terminal."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from case_lightning import generate
from tests.editing.tiny_run import UNRELATED, load_tiny


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_chat_goes_on_after_a_prompt_that_cannot_be_asked(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = SimpleNamespace(base=load_tiny(tiny_model), generate=lambda *_, edited: [f"answer {edited}"])
    monkeypatch.setattr("case_lightning.editing.run.open_scorer", lambda _: scorer)
    lines = [b"The " * 100, b"caf\xe9", UNRELATED.encode(), b"", b"never asked"]
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"\n".join(lines)), encoding="utf-8"))
    generate.main(["--run", "run"])
    shown = capsys.readouterr()
    assert shown.out.count("answer True") == 1
    first, second = shown.err.splitlines()
    assert "to fit the context of 64 tokens" in first
    assert "half of a surrogate pair" in second
