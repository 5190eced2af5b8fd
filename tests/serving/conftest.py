"""A tiny run, and servers of it: the real one in a process of its own, and one in a thread to look into."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from case_lightning.editing.ledger import Stream
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from tests.editing.conftest import tiny_model  # noqa: F401  a fixture
from tests.editing.tiny_run import load_tiny, make_edits, make_settings
from tests.serving.client import read_events

STREAM = Stream(0, {"path": "edits.jsonl"}, batch_size=4, on_contradiction="supersede", n_records=8, finished=True)


@dataclass(frozen=True)
class RunningServer:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    run: Path
    log: Path

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def tiny_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("served") / "run"
    settings, folder = make_settings(tiny_model), RunFolder(path)
    folder.create(settings)
    session = Session(settings, folder, load_tiny(tiny_model))
    session.begin(STREAM)
    edits = make_edits(8)
    for start in (0, 4):
        session.edit(edits[start : start + 4], STREAM)
    return path


@contextmanager
def start_server(run: Path, log: Path, *words: str, **environment: str) -> Iterator[RunningServer]:
    """Run the command until the end of the context."""
    with log.open("w") as file:
        command = [sys.executable, "-m", "case_lightning.serve", "--run", str(run), "--port", "0", *words]
        process = subprocess.Popen(command, stderr=file, text=True, env=os.environ | environment)  # noqa: S603
    try:
        yield RunningServer(process, read_events(log, "ready", process)[0]["address"], run, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture(scope="session")
def server(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    with start_server(shutil.copytree(tiny_run, folder / "run"), folder / "log") as running:
        yield running


@pytest.fixture
def starter(tiny_run: Path, tmp_path: Path) -> Callable[..., object]:
    """Starts a server of a copy of the run."""

    def start(*words: str, **environment: str) -> object:
        return start_server(shutil.copytree(tiny_run, tmp_path / "run"), tmp_path / "log", *words, **environment)

    return start
