"""The whole command on a tiny model, its runs in real processes."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import yaml
from filelock import FileLock

from case_lightning import bench
from case_lightning.benchmark import BenchSettings, pool
from case_lightning.benchmark import bench as whole
from case_lightning.benchmark.bench import run_bench
from case_lightning.benchmark.plan import Cell
from case_lightning.command_line import run_verb
from case_lightning.errors import ConfigError, RunError
from tests.benchmark.rows import make_row


def write_config(settings: BenchSettings, path: Path) -> Path:
    path.write_text(yaml.safe_dump(asdict(settings)), encoding="utf-8")
    return path


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells run in this process; their methods, in order."""
    ran: list[str] = []

    def run_cells(settings, cells, note):
        for cell in cells:
            cell.write(settings.run_dir, [])
            ran.append(cell.method)

    monkeypatch.setattr(whole, "run_cells", run_cells)
    return ran


@pytest.mark.slow
def test_the_command_leaves_a_table_and_plots(settings: BenchSettings, tmp_path: Path, capsys) -> None:
    settings.timing.rounds, settings.timing.edits, settings.devices = 1, 4, ["cpu", "cpu"]
    config = write_config(settings, tmp_path / "bench.yaml")
    bench.main(["--config", str(config)])
    table = pd.read_parquet(tmp_path / "bench" / "results.parquet")
    assert table[["method", "n_edits"]].to_numpy().tolist() == [["ft", 1], ["ft", 8], ["last", 1], ["last", 8]]
    assert (table.timed_seconds > 0).all()
    assert (tmp_path / "bench" / "capitals.svg").is_file()
    assert "0 of 4 runs are there already" in capsys.readouterr().out
    bench.main(["--config", str(config)])
    assert "4 of 4 runs are there already" in capsys.readouterr().out


@pytest.mark.slow
def test_what_one_run_cannot_use_does_not_keep_the_others_from_being_made(settings: BenchSettings, capsys) -> None:
    settings.methods = {"alphaedit": {"threshold": 1e-9}, "last": settings.methods["last"]}
    with pytest.raises(RunError, match="1 of 2 runs failed, the first: alphaedit on capitals: threshold: "):
        run_bench(settings)
    printed = capsys.readouterr().out
    assert "failed: alphaedit on capitals: threshold" in printed
    table = pd.read_parquet(f"{settings.run_dir}/results.parquet")
    assert table.method.unique().tolist() == ["last"]


def test_only_what_is_missing_is_run(settings: BenchSettings, run_here: list[str]) -> None:
    run_bench(settings)
    assert run_here == ["ft", "last"]
    settings.methods["more"] = {"method": "ft"}
    run_bench(settings)
    assert run_here == ["ft", "last", "more"]


def test_other_settings_do_not_mix_with_what_is_there(settings: BenchSettings, run_here: list[str]) -> None:
    run_bench(settings)
    settings.methods["ft"] = {"steps": 4}
    with pytest.raises(ConfigError, match=r"methods\.ft\.steps: .* made with 3, now it is 4; give another"):
        run_bench(settings)
    settings.methods["ft"] = {"steps": 3}
    settings.n_edits = [2]
    with pytest.raises(ConfigError, match="n_edits: "):
        run_bench(settings)


def test_a_default_that_changed_does_not_mix_with_what_is_there(settings: BenchSettings, run_here: list[str]) -> None:
    run_bench(settings)
    path = Path(settings.run_dir) / "config.yaml"
    noted = yaml.safe_load(path.read_text(encoding="utf-8"))
    rate = noted["methods"]["ft"]["learning_rate"]
    noted["methods"]["ft"]["learning_rate"] = 2 * rate  # as if that had been the default then
    path.write_text(yaml.safe_dump(noted), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"methods\.ft\.learning_rate: .* with {2 * rate}, now it is {rate}; give"):
        run_bench(settings)


def test_a_folder_that_notes_given_settings_alone_goes_on(settings: BenchSettings, run_here: list[str]) -> None:
    run_bench(settings)
    path = Path(settings.run_dir) / "config.yaml"
    noted = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(noted | {"methods": settings.methods}), encoding="utf-8")
    run_bench(settings)
    assert run_here == ["ft", "last"]


def test_tables_have_what_a_killed_cell_had_scored(settings: BenchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cells(settings, cells, note):
        for cell in cells:
            cell.write(settings.run_dir, [make_row(cell.method, 1, 0.5)], ended=False)
            note(cell, RuntimeError("killed"))

    monkeypatch.setattr(whole, "run_cells", run_cells)
    with pytest.raises(RunError, match="2 of 2 runs failed"):
        run_bench(settings)
    assert pd.read_parquet(f"{settings.run_dir}/results.parquet").method.tolist() == ["ft", "last"]


def test_tables_keep_timings_that_this_command_does_not_repeat(settings: BenchSettings, run_here: list[str]) -> None:
    settings.timing.rounds, settings.timing.edits = 1, 2
    for method in settings.methods:
        Cell("capitals", method, 0).write(settings.run_dir, [make_row(method, 1, 0.5)])
        Cell("capitals", method, 0, 0).write(
            settings.run_dir, [{"data": "capitals", "method": method, "edit_seconds": 0.25}]
        )
    run_bench(settings)
    settings.timing.rounds = 0
    run_bench(settings)
    assert pd.read_parquet(f"{settings.run_dir}/results.parquet").timed_seconds.tolist() == [0.25, 0.25]
    assert not run_here


def test_a_method_left_out_for_a_while_keeps_its_settings(settings: BenchSettings, run_here: list[str]) -> None:
    run_bench(settings)
    left_out = settings.methods.pop("ft")
    run_bench(settings)
    settings.methods["ft"] = {"steps": 40}
    with pytest.raises(ConfigError, match=r"methods\.ft\.steps: "):
        run_bench(settings)
    settings.methods["ft"] = left_out
    run_bench(settings)
    assert run_here == ["ft", "last"]


def test_timings_of_other_edits_do_not_mix(settings: BenchSettings, run_here: list[str]) -> None:
    settings.timing.rounds, settings.timing.edits = 1, 2
    run_bench(settings)
    settings.timing.rounds, settings.timing.edits = 0, 4
    run_bench(settings)
    settings.timing.rounds = 1
    with pytest.raises(ConfigError, match=r"timing.edits: .* made with 2, now it is 4; give another run_dir"):
        run_bench(settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bench", "a file", "run_dir: .*bench cannot be used; "),
        ("bench/config.yaml", "{", "config.yaml is no YAML; restore it from a copy"),
    ],
)
def test_a_folder_that_cannot_be_used(
    settings: BenchSettings, tmp_path: Path, run_here: list[str], name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=message):
        run_bench(settings)
    assert not run_here


def run_or_die(settings: BenchSettings, cell: Cell, device: str) -> None:
    if cell.method == "killed":
        os._exit(9)


@pytest.mark.slow
def test_a_killed_cell_takes_no_other_with_it(settings: BenchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "run_cell", run_or_die)
    noted: dict[str, str] = {}
    cells = [Cell("capitals", name, 0) for name in ("first", "killed", "last")]
    pool.run_cells(settings, cells, lambda cell, error: noted.update({cell.method: str(error)}))
    assert noted == {"first": "None", "killed": "its process was killed, as for want of memory", "last": "None"}


def test_a_folder_from_when_any_device_was_taken_goes_on(settings: BenchSettings, run_here: list[str]) -> None:
    run_bench(settings)
    path = Path(settings.run_dir) / "config.yaml"
    noted = yaml.safe_load(path.read_text(encoding="utf-8"))
    noted["base"]["device"] = "cpu"
    path.write_text(yaml.safe_dump(noted), encoding="utf-8")
    run_bench(settings)
    assert run_here == ["ft", "last"]


def test_two_processes_do_not_share_a_folder(settings: BenchSettings, run_here: list[str]) -> None:
    folder = Path(settings.run_dir)
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(RunError, match="is being written by another process"):
        run_bench(settings)
    assert not run_here


def test_a_mistake_is_one_line(settings: BenchSettings, tmp_path: Path, capsys, monkeypatch) -> None:
    settings.methods = {"fine": {}}
    config = write_config(settings, tmp_path / "bench.yaml")
    monkeypatch.setattr(sys, "argv", ["bench", "--config", str(config)])
    assert run_verb(bench.main) == 2
    assert capsys.readouterr().err.startswith("error: methods.fine: no method is called 'fine'; there are ")


def test_without_matplotlib_the_way_out_is_named(settings: BenchSettings, tmp_path: Path, capsys, monkeypatch) -> None:
    config = write_config(settings, tmp_path / "bench.yaml")
    monkeypatch.setattr(sys, "argv", ["bench", "--config", str(config)])
    monkeypatch.setattr(bench, "find_spec", lambda _: None)
    assert run_verb(bench.main) == 2
    assert "pip install 'case_lightning[tensorboard]'" in capsys.readouterr().err
