import json
import re
from pathlib import Path
from statistics import mean, median

import pytest

from case_lightning.reporting.allocation import gather_cells
from case_lightning.reporting.answers import Answers, pick_best_and_worst
from case_lightning.reporting.conflict import N_SHADES, average_scores, gather_shades, pick_shade
from case_lightning.reporting.curves import bin_seconds, count_subspaces
from case_lightning.reporting.ledger import LedgerEdit, read_ledger
from case_lightning.reporting.line_chart import N_COLOURS, LineChart, Series, draw_line_chart
from case_lightning.reporting.markup import Markup, element, join
from case_lightning.reporting.page import read_stylesheet
from case_lightning.reporting.row_chart import RowChart
from case_lightning.reporting.scale import Scale, find_round_step, write_unit
from case_lightning.reporting.wording import shorten, write_bytes, write_number, write_share
from tests.reporting.fake_run import build_edits, write_ledger


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> list[LedgerEdit]:
    folder: Path = tmp_path_factory.mktemp("run")
    write_ledger(folder, build_edits(230))
    return read_ledger(folder / "ledger.sqlite")


def test_elements_escape_what_is_not_markup() -> None:
    inner = element("b", "a < b & 'c'")
    assert inner == "<b>a &lt; b &amp; &#x27;c&#x27;</b>"
    assert element("p", inner, None, " <", title='"', class_="x", aria_label=None) == (
        f'<p title="&quot;" class="x">{inner} &lt;</p>'
    )
    assert join(inner, "<", None) == f"{inner}&lt;"
    assert isinstance(join("<"), Markup)


@pytest.mark.parametrize(
    ("low", "high", "count", "whole", "expected"),
    [
        (0, 1, 5, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 1000, 5, True, [0, 200, 400, 600, 800, 1000]),
        (0, 3, 5, True, [0, 1, 2, 3]),
        (0, 3, 5, False, [0, 1, 2, 3]),
        (-0.03, 0.02, 5, False, [-0.03, -0.02, -0.01, 0, 0.01, 0.02]),
        (0, 0.7, 5, True, [0]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, whole: bool, expected: list[float]) -> None:
    assert Scale(low, high, 0, 100).ticks(count, whole=whole) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("smallest", "step"), [(1, 1), (1.01, 2), (2.5, 5), (5.1, 10), (0.011, 0.02), (0.1, 0.1), (730, 1000)]
)
def test_round_step(smallest: float, step: float) -> None:
    assert find_round_step(smallest) == pytest.approx(step)


def test_scale_places_its_ends() -> None:
    scale = Scale(10, 20, 300, 100)
    assert [scale.place(value) for value in (10, 15, 20)] == [300, 200, 100]
    assert [write_unit(value) for value in (12.0, 12.04, 12.06, 1234567.0)] == ["12", "12", "12.1", "1234567"]


def test_line_runs_through_its_points() -> None:
    points = [(0.0, 0.0), (5.0, 1.0), (7.0, float("nan")), (10.0, 0.5)]
    drawn = draw_line_chart(LineChart("key", "Title", "x", "y", [Series("a", points)], y_high=1.0))
    assert drawn is not None
    (path,) = re.findall(r'<path d="([^"]+)"', drawn)
    assert path == "M64 278L377 44L690 161"
    assert re.findall(r"<circle[^>]*><title>([^<]+)</title>", drawn) == ["a: 0 at 0", "a: 1 at 5", "a: 0.500 at 10"]


def test_step_holds_its_value_until_the_next() -> None:
    chart = LineChart("key", "Title", "x", "y", [Series("a", [(0.0, 0.0), (5.0, 1.0), (10.0, 1.0)])], 1.0, is_step=True)
    assert 'd="M64 278H377V44H690V44"' in str(draw_line_chart(chart))


def test_no_two_of_many_lines_look_alike() -> None:
    styles = {Series("", [], colour).style for colour in range(N_COLOURS**2)}
    assert len(styles) == N_COLOURS**2


def test_chart_without_points_is_not_drawn() -> None:
    assert draw_line_chart(LineChart("key", "Title", "x", "y", [Series("a", []), Series("b", [])])) is None


def test_every_style_that_is_drawn_is_in_the_style_sheet() -> None:
    sheet = read_stylesheet()
    drawn = {Series("", [], colour).style for colour in (*range(2 * N_COLOURS), None)}
    drawn |= {f"shade-{shade}" for shade in range(N_SHADES)}
    drawn |= {f"kind-{kind}" for kind in ("shared", "opened", "forced", "retired", "unknown")}
    assert not [one for style in drawn for one in style.split() if f".{one}" not in sheet]
    used = set(re.findall(r"var\((--[\w-]+)\)", sheet))
    assert used == set(re.findall(r"(--[\w-]+):", sheet))


def test_cells_hold_every_edit_once(edits: list[LedgerEdit]) -> None:
    cells = [(kind, cell) for kind, group in gather_cells(edits).items() for cell in group]
    spread = {number: (kind, row) for kind, (first, end, row) in cells for number in range(first, end)}
    assert sum(end - first for _, (first, end, _) in cells) == len(spread) == len(edits)
    for number, edit in enumerate(edits):
        assert spread[number] == ("retired" if number in (3, 5) else edit.decision, edit.subspace)
    assert len(cells) < len(edits)


def test_cells_are_drawn_to_scale() -> None:
    chart = RowChart("key", "Title", "Description", n_edits=60, n_rows=2)
    assert chart.draw_cells("x", [(6, 12, 1)]) == '<path class="x" d="M116 34h60v25h-60z"></path>'
    narrow = chart.draw_cells("x", [(0, 1, 0), (59, 60, 0)], least_width=30)
    assert narrow == '<path class="x" d="M56 8h30v25h-30zM626 8h30v25h-30z"></path>'


@pytest.mark.parametrize("size", [1, 7, 400])
def test_average_scores_match_a_plain_loop(edits: list[LedgerEdit], size: int) -> None:
    raw = [json.loads(edit["scores"]) for edit in build_edits(230)]
    rows = average_scores(edits, size)
    assert len(rows) == max(map(len, raw)) > 3
    for subspace, row in enumerate(rows):
        assert len(row) == -(-230 // size)
        for column, value in enumerate(row):
            group = [each[subspace] for each in raw[column * size : (column + 1) * size] if subspace < len(each)]
            assert value == (pytest.approx(mean(group)) if group else None)


def test_shades_are_symmetric_about_zero() -> None:
    shades = [pick_shade(score, 0.5) for score in (-9, -0.5, -0.25, -0.01, 0, 0.01, 0.25, 0.5, 9)]
    assert shades == [0, 0, 2, 4, 4, 4, 6, 8, 8]


def test_shades_are_gathered_to_scale() -> None:
    rows = [[0.5, 0.5, -0.5], [None, 0.0, 0.0]]
    assert gather_shades(rows, 7, 20, 0.5) == {8: [(0, 14, 0)], 0: [(14, 20, 0)], 4: [(7, 20, 1)]}


def test_subspaces_are_counted_as_they_open(edits: list[LedgerEdit]) -> None:
    steps = dict(count_subspaces(edits))
    for number, edit in enumerate(edits, 1):
        if edit.decision == "opened":
            assert steps[number] == len({each.subspace for each in edits[:number]})
    assert steps[230] == len({edit.subspace for edit in edits})
    assert count_subspaces([]) == []


def test_seconds_are_the_median_of_neighbours(edits: list[LedgerEdit]) -> None:
    points = bin_seconds(edits)
    seconds = [edit["seconds"] for edit in build_edits(230)]
    assert len(points) == 46
    assert points[1] == (10, pytest.approx(median(seconds[5:10])))
    assert points[-1][0] == 230
    assert bin_seconds([]) == []


def test_best_and_worst_share_no_edit() -> None:
    ranks = [(1.0, 0.5), (1.0, 1.0), (0.2, 0.0), (0.2, None), (0.6, 0.1), (None, 1.0)]
    answers = [Answers(str(n), None, None, None, None, *rank) for n, rank in enumerate(ranks)]
    best, worst = pick_best_and_worst(answers, 5)
    assert [each.id for each in best] == ["1", "0", "4"]
    assert {each.id for each in worst} == {"2", "3"}
    best, worst = pick_best_and_worst(answers, 1)
    assert ([each.id for each in best], len(worst)) == (["1"], 1)
    assert pick_best_and_worst(answers[:1], 5) == (answers[:1], [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "n/a"),
        (float("nan"), "n/a"),
        (float("inf"), "∞"),
        (0.0, "0"),
        (12345.0, "12,345"),
        (1.213, "1.21"),
        (999.7, "1,000"),
        (1284.6, "1,285"),
        (0.00012, "1.20e-04"),
        (2.5e9 + 0.5, "2.50e+09"),
    ],
)
def test_numbers_are_written_short(value: float | None, expected: str) -> None:
    assert write_number(value) == expected


def test_shares_and_bytes_are_written_in_their_units() -> None:
    assert [write_share(value) for value in (None, 0.9744, 1.0)] == ["n/a", "0.974", "1.000"]
    sizes = [write_bytes(value) for value in (None, 12.0, 982_016.0, 1_873_741_824.0, 5e15)]
    sizes = [size.replace("\N{NO-BREAK SPACE}", " ") for size in sizes]
    assert sizes == ["n/a", "12 bytes", "982 kB", "1.87 GB", "5,000 TB"]


def test_long_texts_are_cut() -> None:
    assert shorten("short") == "short"
    assert len(shorten("x" * 5000)) < 700
