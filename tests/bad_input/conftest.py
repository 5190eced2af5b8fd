"""A base and a finished run, made once; each case gets a copy of the run."""

import shutil
from pathlib import Path

import pytest

from case_lightning import fit
from tests.bad_input.place import Place
from tests.editing.tiny_run import command, save_base, write_edits


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    save_base(folder / "model")
    fit.main(command(folder / "model", write_edits(folder / "edits.jsonl", 6), folder / "run"))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    (tmp_path / "place").mkdir()
    return Place(tmp_path / "place", made / "model", made / "edits.jsonl", run, capsys, monkeypatch)
