import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from case_lightning.config import RunSettings, TrainerSettings
from case_lightning.data import Edit
from case_lightning.editing.ledger import Ledger, LedgerRow, MadeBatch, Snapshot, Stream
from case_lightning.editing.run_folder import RunFolder
from case_lightning.errors import RunError
from case_lightning.method.allocation import Allocation
from tests.editing.tiny_run import make_edits, make_settings, read_ledger

STREAM = Stream(0, {"path": "x"}, 2, "supersede")


def make_batch(index: int, edits: list[Edit], superseded: dict[str, str] | None = None) -> MadeBatch:
    rows = [LedgerRow(edit, Allocation(1, "shared", (-0.5, 0.25)), 0.5, 1.0, 2.0) for edit in edits]
    return MadeBatch(index, 0, edits, rows, superseded or {}, Snapshot(index + 1, f"s{index}", "0"), (index + 1, 0.5))


def test_settings_survive_the_file(tmp_path: Path) -> None:
    settings = make_settings("model", training={"learning_rate": 1e-7}, data={"columns": {"prompt": "é: #"}})
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create(settings)
    assert folder.read_config() == asdict(settings)
    assert not folder.finished
    assert not folder.repeats(settings)
    folder.create(settings)  # one that was cut off before its first edit


def test_a_folder_of_which_nothing_came_is_as_it_was(tmp_path: Path) -> None:
    found, new, linked = tmp_path / "found", tmp_path / "new", tmp_path / "linked"
    found.mkdir()
    linked.symlink_to(found)
    for path in (found, new, linked):
        with pytest.raises(ArithmeticError), RunFolder(path).locked():
            raise ArithmeticError
    assert list(found.iterdir()) == []
    assert not new.exists()
    assert linked.is_symlink()


def test_precision_stays_while_devices_may_change(tmp_path: Path) -> None:
    settings, folder = make_settings("model"), RunFolder(tmp_path / "run")
    folder.create(settings)
    Ledger(folder.ledger).enter_stream(STREAM)
    settings.trainer.devices = 2
    folder.check_usable(settings)
    settings.trainer.precision = "bf16-mixed"
    with pytest.raises(RunError, match=r"trainer\.precision was 32-true, is bf16-mixed"):
        folder.check_usable(settings)


def test_who_reads_settings_is_one_process_wherever_it_runs(tmp_path: Path) -> None:
    settings, folder = make_settings("model"), RunFolder(tmp_path / "run")
    settings.trainer = TrainerSettings("gpu", 4, "ddp", "bf16-mixed", 2, "tensorboard")
    folder.create(settings)
    assert folder.read_settings().trainer == TrainerSettings(precision="bf16-mixed", logger="tensorboard")
    assert folder.read_config() == asdict(settings)


def test_a_finished_run_is_recognised_by_its_settings(tmp_path: Path) -> None:
    settings = make_settings("model")
    folder = RunFolder(tmp_path / "run")
    folder.create(settings)
    folder.write_json(folder.metrics, {})
    assert folder.repeats(settings)
    Ledger(folder.ledger).enter_stream(STREAM)
    settings.data.limit = 3
    folder.check_usable(settings)  # other edits: the run goes on
    settings.base.device = "cuda:1"
    folder.check_usable(settings)  # elsewhere, too
    settings.training.steps += 1
    assert not folder.repeats(settings)
    with pytest.raises(RunError, match=r"holds a run with other settings: training\.steps was 8, is 9; go on with"):
        folder.create(settings)


def test_settings_that_came_later_have_their_defaults(tmp_path: Path) -> None:
    folder, settings = RunFolder(tmp_path / "run"), RunSettings()
    folder.create(settings)
    folder.write_json(folder.metrics, {})
    config = folder.read_config()
    del config["training"]["mask_size"], config["memory"]
    folder.write_text(folder.config, yaml.safe_dump(config))
    assert folder.repeats(settings)
    folder.ledger.write_text("-")  # as if it had begun
    folder.check_usable(settings)
    folder.write_text(folder.config, yaml.safe_dump(config | {"subspace": {"of_another_version": 1}}))
    with pytest.raises(RunError, match=r"subspace\.of_another_version was 1, is None"):
        folder.check_usable(settings)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("base: {}\nsubspaces: {}\n", "subspaces"),
        ("base: {}\ntraining: {n_steps: 3}\n", "training.n_steps"),
        ("base: {}\ntraining: 3\n", "training"),
    ],
)
def test_settings_of_another_version(tmp_path: Path, text: str, named: str) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text(text)
    with pytest.raises(RunError, match=rf"config.yaml: {named} is no setting of this version of case_lightning; use"):
        folder.read_settings()
    folder.config.write_text("base: {model: other}\n")
    assert folder.read_settings().base.model == "other"
    assert folder.read_settings().training == RunSettings().training


def test_what_else_a_folder_may_hold(tmp_path: Path) -> None:
    settings = make_settings("model")
    other, file = tmp_path / "other", tmp_path / "file"
    other.mkdir()
    (other / "notes.txt").touch()
    file.touch()
    for path, held in ((other, "other files"), (file, "a file")):
        with pytest.raises(RunError, match=f"run_dir: .* already holds {held}; give another folder"):
            RunFolder(path).create(settings)
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").create(settings)


@pytest.mark.parametrize("name", ["file/run", "x" * 300, "/proc/none/run"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    folder = RunFolder(tmp_path / name)
    assert not folder.repeats(make_settings("model"))
    with pytest.raises(RunError, match=r"run_dir: .* cannot be written"):
        folder.create(make_settings("model"))


@pytest.mark.parametrize("text", [None, "[1, 2", "", "- 1", "seed: 0", "base: 3", b"\xff\xfe"])
def test_a_config_that_cannot_be_read(tmp_path: Path, text: str | bytes | None) -> None:
    folder = RunFolder(tmp_path)
    if text is not None:
        folder.config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=r"holds no readable run: config\.yaml"):
        folder.read_config()


@pytest.mark.parametrize("text", [None, "{", "\x00"])
def test_metrics_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    folder = RunFolder(tmp_path)
    if text is not None:
        folder.metrics.write_text(text)
    with pytest.raises(RunError, match=r"holds no finished run: metrics\.json"):
        folder.read_metrics()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json(folder.metrics, {"n_edits": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json(folder.metrics, {"n_edits": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        folder.write_text(folder.metrics, "\ud800")
    assert folder.read_metrics() == {"n_edits": 1}
    folder.write_json(folder.metrics, {"n_edits": 2})
    assert folder.read_metrics() == {"n_edits": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_new_adapter_takes_the_old_ones_place(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for content in ("old", "new"):
        part = tmp_path / "adapter.part"
        part.mkdir()
        (part / content).touch()
        folder.replace_adapter(part)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "new"]


def test_ledger_rows(tmp_path: Path) -> None:
    edits = make_edits(3)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.enter(make_batch(0, edits[:2]), STREAM)
    ledger.enter(make_batch(1, edits[2:]), replace(STREAM, n_records=3))
    assert ledger.edits() == edits
    rows = read_ledger(tmp_path)
    assert [row["position"] for row in rows] == [0, 1, 2]
    assert [row["batch"] for row in rows] == [0, 0, 1]
    last = rows[2]
    assert (last["id"], last["prompt"], last["target"], last["subject"]) == (
        edits[2].id,
        edits[2].prompt,
        edits[2].target,
        edits[2].subject,
    )
    assert (last["subspace"], last["conflict_score"], last["decision"]) == (1, 0.25, "shared")
    assert json.loads(last["scores"]) == [-0.5, 0.25]
    assert (last["loss"], last["seconds"], last["superseded_by"], last["undone_at"]) == (0.5, 2.0, None, None)
    assert last["created_at"].endswith("+00:00")


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    edits = make_edits(3)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.enter(make_batch(0, edits[:1]), STREAM)
    with pytest.raises(sqlite3.IntegrityError):
        ledger.enter(make_batch(1, [edits[1], edits[0]], {edits[0].id: edits[1].id}), replace(STREAM, n_records=3))
    assert ledger.edits() == edits[:1]
    assert [one.name for one in ledger.snapshots()] == ["s0"]
    assert ledger.retention() == [[1, 0.5]]
    assert ledger.streams() == [STREAM]


def test_a_ledger_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).enter_stream(STREAM)
    for version, remedy in ((1, "make its edits again with this one"), (3, "update case_lightning")):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(RunError, match=f"has format version {version}, this package reads version 2; {remedy}"):
            Ledger(path).edits()


@pytest.mark.parametrize("content", [None, b"no data base, but a text that is long enough to be looked at"])
def test_a_ledger_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ledger.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"ledger\.sqlite is not"):
        Ledger(path).edits()
