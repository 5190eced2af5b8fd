"""Numbers that cannot work, and fits that diverge."""

from collections.abc import Callable
from pathlib import Path

import pytest

from case_lightning.base import load_base
from case_lightning.command_line import settings_from
from case_lightning.data import read_edits
from case_lightning.editing.module import EditModule
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import WORSE, Session
from tests.bad_input.place import Case, Place, check_case
from tests.editing.tiny_run import command, read_ledger, write_edits


def refused(key: str, value: object) -> Case:
    return f"--{key}", lambda place: place.refuse_fit(f"--{key}", value)


def diverge(learning_rate: str) -> Callable[[Place], str]:
    """A fit that diverges leaves the run with no batch, as it began."""

    def attempt(place: Place) -> str:
        run = place.folder / "new"
        assert place.call("fit", *command(place.model, place.data, run, "--training.learning_rate", learning_rate)) == 2
        (line,) = place.capsys.readouterr().err.splitlines()
        assert read_ledger(run) == []
        assert [path.name[:6] for path in (run / "snapshots").iterdir()] == ["000000"]
        assert not (run / "metrics.json").exists()
        assert (run / "logs" / "metrics.csv").read_text().splitlines() == ["epoch,loss,step"]
        return hide_losses(place.shorten(line.removeprefix("error: ")))

    return attempt


def ascend(place: Place) -> None:
    """Have every fit go up its loss, which stays finite."""
    step = EditModule.training_step
    place.monkeypatch.setattr(EditModule, "training_step", lambda *args: -step(*args))


def climb(place: Place) -> str:
    ascend(place)
    return diverge("2.0")(place)


def diverge_later(place: Place) -> str:
    """A later batch that diverges is taken back; the batches before it are kept as they are, to the bit."""
    folder = RunFolder(place.run)
    settings = settings_from(folder.read_config())
    settings.training.learning_rate = 1e37
    session = Session(settings, folder, load_base(str(place.model), device="cpu"))
    before, edits = place.read_files(), read_edits(write_more(place))
    tensors = {name: value.clone() for name, value in session.editor.state().items()}
    line = place.refuse_call(lambda: session.edit(edits, session.ledger.streams()[-1]))
    assert place.read_files() == before
    assert all(value.equal(tensors[name]) for name, value in session.editor.state().items())
    assert len(session.editor.edits) == 6
    return hide_losses(line)


def write_more(place: Place) -> Path:
    path = write_edits(place.folder.parent / "more.jsonl", 12)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[6:]))
    return path


def hide_losses(line: str) -> str:
    """Not the same on every processor."""
    start, end = line.index("its loss went from"), line.index("; it is taken back")
    before, after = line[start:end].removeprefix("its loss went from ").split(" to ")
    assert not float(after) <= WORSE * float(before)
    return f"{line[:start]}its loss went from A to B{line[end:]}"


CASES: dict[str, Case] = {
    "the word nan": refused("training.learning_rate", "nan"),
    "NaN": refused("training.learning_rate", ".nan"),
    "infinity": refused("training.learning_rate", ".inf"),
    "a learning rate of 0": refused("training.learning_rate", 0),
    "a negative learning rate": refused("training.learning_rate", -1),
    "infinite weight decay": refused("training.weight_decay", ".inf"),
    "no steps": refused("training.steps", 0),
    "a rank of 0": refused("subspace.rank", 0),
    "a rank of a million millions": refused("subspace.rank", 10**12),
    "a negative scale": refused("subspace.scale", -1),
    "more directions than the inputs have": refused("subspace.n_directions", 100_000),
    "a threshold above 1": refused("subspace.subject_threshold", 2),
    "a negative seed": refused("seed", -1),
    "a seed of 70 bits": refused("seed", 2**70),
    "a negative weight": refused("memory.weight", -1),
    "a temperature of 0": refused("memory.temperature", 0),
    "a consolidation of empty steps": refused("consolidation.batch_size", 0),
    "a negative layer": refused("base.layer", -9),
    "a layer beyond the last": refused("base.layer", 3),
    "batches of no edits": refused("data.batch_size", 0),
    "none of the records": refused("data.limit", 0),
    "a negative offset": refused("data.offset", -1),
    "an offset beyond the last record": refused("data.offset", 99),
    "no device": refused("trainer.devices", 0),
    "subspaces in half precision": refused("trainer.precision", "bf16-true"),
    "a fit whose loss is no number": ("--training.learning_rate", diverge("1e37")),
    "a fit whose loss grows": ("fit", climb),
    "a later batch that diverges": ("Session.edit", diverge_later),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_number(case: str, place: Place) -> None:
    check_case("numbers", CASES, case, place)
