"""Which runs a comparison needs, where their batches end, and what cannot be compared."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from case_lightning.benchmark import BenchSettings
from case_lightning.benchmark.plan import Cell, check_bench, plan_cells, split_stream
from case_lightning.benchmark.settings import TimingSettings
from case_lightning.config import BaseSettings, DataSettings, EvaluationSettings
from case_lightning.errors import ConfigError
from tests.editing.tiny_run import make_edits


def test_every_method_meets_every_data_set_with_every_seed_and_timings_take_turns(settings: BenchSettings) -> None:
    settings = replace(settings, seeds=[0, 1], timing=TimingSettings(rounds=2))
    cells = plan_cells(settings)
    scored = [(cell.method, cell.seed) for cell in cells if cell.turn is None]
    assert sorted(scored) == [("ft", 0), ("ft", 1), ("last", 0), ("last", 1)]
    timed = [(cell.turn, cell.method) for cell in cells[4:]]
    assert timed == [(0, "ft"), (0, "last"), (1, "ft"), (1, "last")]
    assert len({cell.locate("x") for cell in cells}) == len(cells)


def test_a_name_with_a_hyphen_gets_its_own_settings(settings: BenchSettings) -> None:
    check_bench(replace(settings, methods={"ft-long": {"method": "ft", "steps": 50}}))
    with pytest.raises(ConfigError, match=r"methods.ft-long: unknown setting 'step'; did you mean steps"):
        check_bench(replace(settings, methods={"ft-long": {"method": "ft", "step": 50}}))


def test_rows_are_kept_and_found_again(tmp_path: Path) -> None:
    cell = Cell("capitals", "ft", 3)
    assert cell.read(tmp_path) is None
    cell.write(tmp_path, [{"n_edits": 1}])
    assert cell.read(tmp_path) == [{"n_edits": 1}]
    assert Cell("capitals", "ft", 3, turn=0).read(tmp_path) is None


@pytest.mark.parametrize(
    ("count", "stops", "ends"),
    [
        (12, [1, 8], [1, 4, 8]),
        (12, [4, 12], [4, 8, 12]),
        (10, [3, 10], [3, 4, 8, 10]),
        (6, [1, 100], [1, 4, 6]),
    ],
)
def test_a_batch_ends_wherever_a_score_is_due(count: int, stops: list[int], ends: list[int]) -> None:
    edits = make_edits(count)
    batches = list(split_stream(edits, 4, stops))
    assert [end for _, end in batches] == ends
    assert [edit for batch, _ in batches for edit in batch] == edits[: ends[-1]]


def test_of_two_answers_to_a_question_in_a_batch_the_later_is_written() -> None:
    first, second = make_edits(2)
    again = replace(first, id="again", target="elsewhere")
    [(batch, end)] = split_stream([first, second, again], 4, [3])
    assert (batch, end) == ([second, again], 3)


BAD = {
    "no methods": ({"methods": {}}, "methods: expected at least one"),
    "no data": ({"data": {}}, "data: expected at least one"),
    "no seeds": ({"seeds": []}, "seeds: expected at least one"),
    "no devices": ({"devices": []}, "devices: expected at least one"),
    "no edits": ({"n_edits": [0, 5]}, "n_edits: expected numbers above 0, found 0"),
    "no time": ({"max_seconds": 0.0}, "max_seconds: expected a number above 0, found 0.0"),
    "a name that is a path": ({"data": {"../zsre": DataSettings()}}, "data: expected a name of letters"),
    "an unknown method": (
        {"methods": {"memitt": {}}},
        "methods.memitt: no method is called 'memitt'; did you mean",
    ),
    "an unknown setting": ({"methods": {"ft": {"step": 3}}}, "methods.ft: unknown setting 'step'; did you mean steps?"),
    "a layer for all": (
        {"base": BaseSettings(layer=99)},
        "base.layer: expected none, as bench does not read it, found 99; the layer is a setting of a method",
    ),
    "a device beside devices": ({"base": BaseSettings(device="cuda")}, "base.device: expected none"),
    "points of a curve": (
        {"evaluation": EvaluationSettings(retention_points=3)},
        "evaluation.retention_points: expected none",
    ),
    "a device that there is not": ({"devices": ["cpu", "abacus"]}, "devices: unknown device 'abacus'; give auto, cpu"),
    "no prompts at once": (
        {"evaluation": EvaluationSettings(batch_size=0)},
        "evaluation.batch_size: expected a number above 0, found 0",
    ),
    "batches of no edits": (
        {"data": {"zsre": DataSettings(batch_size=0)}},
        "data.zsre.batch_size: expected a whole number of at least 1, found 0",
    ),
    "none of the records": (
        {"data": {"zsre": DataSettings(limit=0)}},
        "data.zsre.limit: expected a whole number of at least 1, found 0",
    ),
    "a negative offset": (
        {"data": {"zsre": DataSettings(offset=-1)}},
        "data.zsre.offset: expected a whole number of at least 0, found -1",
    ),
    "a negative seed": ({"seeds": [0, -1]}, "seeds: expected 0 to 4294967295, found -1"),
    "fewer turns than none": (
        {"timing": TimingSettings(rounds=-1)},
        "timing.rounds: expected a whole number of at least 0, found -1",
    ),
    "no steps of a baseline": (
        {"methods": {"memoir": {"steps": 0}}},
        "methods.memoir.steps: expected a number above 0, found 0",
    ),
    "a negative layer": ({"methods": {"ft": {"layer": -1}}}, "methods.ft.layer: expected 0 or more, found -1"),
    "more than all weights": (
        {"methods": {"wise": {"mask_share": 1.5}}},
        "methods.wise.mask_share: expected a share above 0, 1 at most, found 1.5",
    ),
    "no number": (
        {"methods": {"ft": {"learning_rate": float("nan")}}},
        "methods.ft.learning_rate: expected a number above 0, found nan",
    ),
    "no number among several": (
        {"methods": {"wise": {"margins": [1.0, float("inf"), 2.0]}}},
        "methods.wise.margins: expected 0 or more, found inf",
    ),
    "a negative rate within": (
        {"methods": {"memit": {"search": {"learning_rate": -0.5}}}},
        "methods.memit.search.learning_rate: expected a number above 0, found -0.5",
    ),
    "no steps": (
        {"methods": {"short": {"method": "case", "training": {"steps": 0}}}},
        "methods.short.training.steps: expected a number above 0, found 0",
    ),
    "a consolidation of empty steps": (
        {"methods": {"case": {"consolidation": {"batch_size": 0}}}},
        "methods.case.consolidation.batch_size: expected a number above 0, found 0",
    ),
    "a setting of the wrong type": (
        {"methods": {"ft": {"steps": "many"}}},
        "methods.ft.steps: expected a whole number, found many",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_refused(name: str, settings: BenchSettings) -> None:
    changes, message = BAD[name]
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_bench(replace(settings, **changes))
