"""Where bad input is tried: a tiny base, edits, a run that must not change, and the table in `docs/bad_input.md`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from case_lightning import assess, evaluate, fit, generate, history, report
from case_lightning.command_line import run_verb
from case_lightning.errors import CaseError
from tests.editing.tiny_run import command

DOCS = Path(__file__).resolve().parents[2] / "docs" / "bad_input.md"
VERBS = {"fit": fit, "evaluate": evaluate, "generate": generate, "history": history, "assess": assess, "report": report}


@dataclass
class Place:
    """One case at work.

    Attributes:
        folder: For whatever it needs, empty at first.
        model: A base.
        data: Good edits.
        run: A finished run of them, the case's own copy.
        capsys: What was printed.
        monkeypatch: To make a fit diverge.
    """

    folder: Path
    model: Path
    data: Path
    run: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def call(self, verb: str, *words: object) -> int:
        self.capsys.readouterr()
        return run_verb(lambda: VERBS[verb].main([str(word) for word in words]))

    def refuse(self, verb: str, *words: object) -> str:
        """The one line of a command that changes nothing, with short names for the places in it."""
        before = self.read_files()
        assert self.call(verb, *words) == 2
        captured = self.capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        assert self.read_files() == before
        return self.shorten(line.removeprefix("error: "))

    def refuse_fit(self, *more: object) -> str:
        """The same of a fit into a folder that is not there, and is not afterwards."""
        return self.refuse("fit", *command(self.model, self.data, self.folder / "new", *map(str, more)))

    def refuse_data(self, name: str, content: str | bytes) -> str:
        return self.refuse_fit("--data.path", self.write(name, content))

    def refuse_call(self, call: Callable[[], object], kind: type[Exception] = CaseError) -> str:
        """The message of an error from Python."""
        with pytest.raises(kind) as caught:
            call()
        return self.shorten(" ".join(str(caught.value).split()))

    def shorten(self, line: str) -> str:
        for path, name in ((self.run, "RUN"), (self.model, "MODEL"), (self.data, "DATA"), (self.folder, "DIR")):
            line = line.replace(str(path), name)
        return line.encode("unicode_escape").decode().replace("|", "/")

    def read_files(self) -> dict[Path, bytes]:
        paths = [path for root in (self.folder, self.run) for path in root.rglob("*")]
        return {path: path.read_bytes() if path.is_file() else b"" for path in paths}


Case = tuple[str, Callable[[Place], str]]  # where it is given, and what tries it and says what came of it


@cache
def read_table() -> dict[str, dict[str, tuple[str, str]]]:
    """For each test module of the table in the docs: input to where and outcome."""
    table: dict[str, dict[str, tuple[str, str]]] = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| input |"):
            name, where, outcome, module = (cell.strip(" `") for cell in re.split(r"\|", line)[1:-1])
            table.setdefault(module, {})[name] = (where, outcome)
    return table


def check_case(module: str, cases: dict[str, Case], case: str, place: Place) -> None:
    """Try one case, and compare where it is given and what came of it with the docs."""
    where, attempt = cases[case]
    outcome = attempt(place)
    assert (where, outcome) == read_table()[module][case]
