"""The table and the plots of rows made by hand."""

from pathlib import Path

import pandas as pd
import pytest

from case_lightning.benchmark import BenchSettings
from case_lightning.benchmark.plan import Cell, plan_cells
from case_lightning.benchmark.plots import choose_scale, draw_dots, draw_plots, draw_trade_off
from case_lightning.benchmark.settings import TimingSettings
from case_lightning.benchmark.table import collect_rows, render_markdown, write_table
from tests.benchmark.rows import make_row


@pytest.fixture
def table(settings: BenchSettings) -> pd.DataFrame:
    settings.seeds, settings.timing = [0, 1], TimingSettings(rounds=3)
    for seed, reliability in ((0, 0.2), (1, 0.4)):
        Cell("capitals", "ft", seed).write(settings.run_dir, [make_row("ft", 8, reliability, seed)])
    Cell("capitals", "last", 0).write(settings.run_dir, [make_row("last", 8, 0.9), make_row("last", 1, 0.1)])
    for turn, seconds in enumerate((1.0, 2.0, 9.0)):
        row = {"data": "capitals", "method": "ft", "seed": 0, "n_edits": 4, "edit_seconds": seconds}
        Cell("capitals", "ft", 0, turn).write(settings.run_dir, [row])
    return collect_rows(settings, plan_cells(settings))


def test_a_row_for_each_method_seed_and_number_of_edits(table: pd.DataFrame) -> None:
    assert len(table) == 4
    assert table["mean"].tolist() == pytest.approx([1.7 / 3, 1.9 / 3, 2.4 / 3, 1.6 / 3])


def test_seconds_are_the_median_of_the_turns(table: pd.DataFrame) -> None:
    assert table[table.method == "ft"].timed_seconds.tolist() == [2.0, 2.0]
    assert table[table.method == "last"].timed_seconds.isna().all()


def test_markdown_has_means_over_seeds_the_best_first(table: pd.DataFrame) -> None:
    text = render_markdown(table)
    eight = text.split("## capitals, 1 edit")[0]
    lines = [line for line in eight.splitlines() if line.startswith(("| ft", "| last"))]
    assert [line.split(" | ")[0] for line in lines] == ["| last", "| ft"]
    assert lines[1].split(" | ")[1] == "0.300"
    assert lines[1].endswith("2 (± 0.047) |")
    assert "1.50\N{NO-BREAK SPACE}kB" in lines[0]


def test_what_was_written_is_read_back(table: pd.DataFrame, tmp_path: Path) -> None:
    write_table(table, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), table)
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == render_markdown(table)


def test_no_rows_are_no_table(settings: BenchSettings) -> None:
    assert collect_rows(settings, plan_cells(settings)).empty


def test_a_plot_has_a_line_for_each_method(table: pd.DataFrame, tmp_path: Path) -> None:
    path, _ = draw_plots(table, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path.name == "capitals.svg"
    for word in ("ft", "last", "Reliability", "Generalization", "Locality"):
        assert f"<!-- {word} -->" in text, word


def test_after_one_number_of_edits_each_method_has_a_dot_beside_its_bytes(table: pd.DataFrame, tmp_path: Path) -> None:
    path, _ = draw_plots(table[table.n_edits == 8], tmp_path)
    assert "<!-- last -->" in path.read_text(encoding="utf-8")
    figure = draw_dots(table[table.n_edits == 8], {"reliability": "Reliability"})
    reliability, stored = ([list(axis.lines[0].get_data()[0]), axis.get_xlabel()] for axis in figure.axes)
    assert reliability == [pytest.approx([0.9, 0.3]), "Reliability"]  # last and ft, from below
    assert stored == [pytest.approx([0.0015, 0.0015]), "Stored (MB)"]


def test_what_the_methods_reach_is_drawn_over_their_bytes(table: pd.DataFrame, tmp_path: Path) -> None:
    _, path = draw_plots(table, tmp_path)
    assert path.name == "capitals_bytes.svg"
    (axis,) = draw_trade_off(table).axes
    stored, mean = axis.lines[0].get_data()  # after eight edits: "last" alone was scored after one
    assert list(stored) == pytest.approx([0.0015, 0.0015])
    assert list(mean) == pytest.approx([1.8 / 3, 2.4 / 3])
    assert [text.get_text() for text in axis.texts] == ["ft", "last"]
    assert axis.get_ylabel() == "Mean of the figures after 8 edits"


@pytest.mark.parametrize(("values", "scale"), [([1.01, 2.55], "linear"), ([0.4, 35.9], "log"), ([3.0], "linear")])
def test_an_axis_is_logarithmic_where_values_span_a_decade(values: list[float], scale: str) -> None:
    assert choose_scale(pd.Series(values)) == scale
    rows = [{"method": f"m{i}", "n_edits": 8, "bytes": value * 1e6, "mean": 0.5} for i, value in enumerate(values)]
    (axis,) = draw_trade_off(pd.DataFrame(rows)).axes
    assert axis.get_xscale() == scale
