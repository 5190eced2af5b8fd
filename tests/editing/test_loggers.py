"""TensorBoard while a run goes on: one file, scalars at the number of edits, figures that a reader finds."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from case_lightning.editing.ledger import Stream
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.errors import ConfigError
from case_lightning.reporting.masks import read_masks
from tests.editing.tiny_run import load_tiny, make_edits, make_settings

EDITS = make_edits(12)
STREAM = Stream(0, {"path": "edits.jsonl"}, batch_size=4, on_contradiction="supersede")


def open_session(model: Path, path: Path) -> Session:
    settings = make_settings(model, trainer={"logger": "tensorboard"}, conflict={"max_subspaces": 1})
    folder = RunFolder(path)
    folder.create(settings)
    return Session(settings, folder, load_tiny(model))


def read_events(session: Session) -> EventAccumulator:
    (file,) = session.folder.logs.glob("events.*")
    return EventAccumulator(str(file)).Reload()


def test_a_run_logs_scalars_and_figures(tiny_model: Path, tmp_path: Path) -> None:
    session = open_session(tiny_model, tmp_path / "run")
    session.begin(STREAM)
    for start in (0, 4, 8):
        session.edit(EDITS[start : start + 4], STREAM, point=True)
    events = read_events(session)
    rows = session.ledger.rows()
    losses = events.Scalars("edits/loss")
    assert [event.step for event in losses] == [4, 8, 12]
    for index, event in enumerate(losses):
        mine = [row["loss"] for row in rows if row["batch"] == index]
        assert event.value == pytest.approx(sum(mine) / len(mine))
    assert [[event.step, event.value] for event in events.Scalars("edits/retention")] == [
        [n_edits, pytest.approx(value)] for n_edits, value in session.ledger.retention()
    ]
    tuned = [event.value for event in events.Scalars("edits/active.0.up/tuned_neurons")]
    assert tuned == [sum(mask.kept) for mask in read_masks(session.folder.ledger)]
    for name in ("conflict", "growth", "sensitivity", "retention"):
        assert [image.step for image in events.Images(f"edits/{name}")][-1] == 12
    session.editor.trainer.logger.experiment.close()  # type: ignore[union-attr]


def test_a_resumed_run_goes_on_at_its_number_of_edits(tiny_model: Path, tmp_path: Path) -> None:
    session = open_session(tiny_model, tmp_path / "run")
    session.begin(STREAM)
    session.edit(EDITS[:4], STREAM)
    for file in session.folder.logs.glob("events.*"):
        file.unlink()
    session = open_session(tiny_model, tmp_path / "run")
    session.edit(EDITS[4:8], STREAM)
    assert [event.step for event in read_events(session).Scalars("edits/loss")] == [8]


@pytest.mark.parametrize("package", ["tensorboard", "matplotlib"])
def test_a_missing_package_is_named_before_the_first_edit(
    package: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"trainer\.logger: tensorboard needs {package}, which is not installed; pip install"
    ):
        open_session(tiny_model, tmp_path / "run")
