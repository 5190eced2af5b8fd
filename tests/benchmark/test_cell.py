"""One run of a comparison: rows as a plain loop over batches would give them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from case_lightning.baselines import FineTuning, FineTuningSettings
from case_lightning.benchmark import BenchSettings
from case_lightning.benchmark.build import build_method
from case_lightning.benchmark.cell import measure_bytes, read_stream, run_cell, score_stream, time_edits
from case_lightning.benchmark.plan import Cell
from case_lightning.benchmark.settings import TimingSettings
from case_lightning.benchmark.table import collect_rows
from case_lightning.data import Edit
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.scoring import Scorer
from case_lightning.errors import ConfigError, DataError
from tests.editing.tiny_run import load_tiny, make_edits


def build(settings: BenchSettings, name: str = "ft") -> FineTuning:
    method = build_method(name, settings.methods[name], load_tiny(settings.base.model), seed=0)
    assert isinstance(method, FineTuning)
    return method


def test_a_name_may_stand_for_a_method_with_other_settings(settings: BenchSettings) -> None:
    assert build(settings, "ft").settings == FineTuningSettings(steps=3)
    assert build(settings, "last").settings == FineTuningSettings(steps=2, objective="last_token")


def test_rows_are_those_of_a_plain_loop(settings: BenchSettings) -> None:
    edits = make_edits(8)
    rows = list(score_stream(settings, build(settings), edits, batch_size=4))
    plain = build(settings)
    for batch in (edits[:1], edits[1:4], edits[4:]):
        plain.edit(batch)
    parts, _ = evaluate_model(Scorer(plain), edits, generate=False)
    assert [row["n_edits"] for row in rows] == [1, 8]
    for name, figure in parts["final"].items():
        assert rows[-1][name] == pytest.approx(figure, abs=1e-6), name
    assert rows[-1]["unedited_reliability"] == parts["pre"]["reliability"]
    assert rows[-1]["optimizer_steps"] == plain.n_steps / 8
    assert rows[-1]["bytes"] == measure_bytes(plain) > plain.delta.numel() * 4


def test_only_the_edits_that_hold_are_scored(settings: BenchSettings) -> None:
    first, second = make_edits(2)
    again = replace(first, id="again", target="minister")
    [row] = score_stream(replace(settings, n_edits=[3]), build(settings), [first, second, again], batch_size=1)
    parts, _ = evaluate_model(Scorer(_edited(settings, [[first], [second], [again]])), [second, again], generate=False)
    assert row["perplexity"] == pytest.approx(parts["final"]["perplexity"])


def _edited(settings: BenchSettings, batches: list) -> FineTuning:
    method = build(settings)
    for batch in batches:
        method.edit(batch)
    return method


def test_a_run_that_takes_too_long_is_scored_where_it_is(settings: BenchSettings) -> None:
    rows = score_stream(replace(settings, max_seconds=1e-9), build(settings), make_edits(8), batch_size=4)
    assert [(row["n_edits"], row["complete"]) for row in rows] == [(1, False)]


def test_what_is_too_long_for_the_model_is_left_out_or_refused(settings: BenchSettings, tmp_path: Path) -> None:
    edits = make_edits(4)
    edits[3] = replace(edits[3], prompt="The capital of " * 60)
    data = replace(settings.data["capitals"], path=str(tmp_path / "long.jsonl"), on_error="skip")
    Path(data.path).write_text("".join(edit.to_json() + "\n" for edit in edits))
    cell = Cell("capitals", "ft", 0)
    short = replace(settings, data={"capitals": data}, n_edits=[4], run_dir=str(tmp_path / "run"))
    with pytest.warns(UserWarning, match="context"):
        run_cell(short, cell, "cpu")
    rows = cell.read(short.run_dir)
    assert rows
    assert [row["n_edits"] for row in rows] == [3]
    data.on_error = "raise"
    with pytest.raises(DataError, match="context"):
        run_cell(short, cell, "cpu")


def test_timings_leave_the_first_batch_out(settings: BenchSettings) -> None:
    seen: list[int] = []

    class Slow(FineTuning):
        def edit(self, edits):
            seen.append(len(edits))
            super().edit(edits)

    row = time_edits(Slow(load_tiny(settings.base.model)), make_edits(12), 4, 6)
    assert seen == [4, 4, 2]
    assert row["n_edits"] == 6
    assert row["edit_seconds"] > 0


def test_more_timed_edits_than_there_are_are_refused(settings: BenchSettings) -> None:
    with pytest.raises(ConfigError, match=r"timing.edits: expected at most 4, .* found 5"):
        read_stream(replace(settings, timing=TimingSettings(edits=5)), "capitals")


def test_a_first_look_at_few_edits_has_its_timing(settings: BenchSettings) -> None:
    short = replace(settings, n_edits=[1], timing=TimingSettings(edits=2))
    assert len(read_stream(short, "capitals")) == 6
    assert len(read_stream(replace(short, timing=TimingSettings(rounds=0)), "capitals")) == 1


def test_a_cell_keeps_its_rows_and_says_them(settings: BenchSettings, capsys: pytest.CaptureFixture[str]) -> None:
    cell = Cell("capitals", "ft", 0)
    state = torch.random.get_rng_state()
    run_cell(settings, cell, "cpu")
    torch.random.set_rng_state(state)
    rows = cell.read(settings.run_dir)
    assert rows is not None
    assert [(row["data"], row["method"], row["seed"], row["n_edits"]) for row in rows] == [
        ("capitals", "ft", 0, 1),
        ("capitals", "ft", 0, 8),
    ]
    said = [line.split(", reliability")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["ft on capitals, seed 0, 1 edit", "ft on capitals, seed 0, 8 edits"]


def test_what_a_cell_scored_before_it_was_stopped_is_kept(
    settings: BenchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, edit, made = Cell("capitals", "ft", 0), FineTuning.edit, []

    def stop_at_the_third(self: FineTuning, edits: list[Edit]) -> None:
        made.append(len(edits))
        if len(made) == 3:
            raise KeyboardInterrupt
        edit(self, edits)

    with monkeypatch.context() as patched:
        patched.setattr(FineTuning, "edit", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run_cell(settings, cell, "cpu")
    assert cell.read(settings.run_dir) is None
    assert collect_rows(settings, [cell]).n_edits.tolist() == [1]
    run_cell(settings, cell, "cpu")
    assert collect_rows(settings, [cell]).n_edits.tolist() == [1, 8]
    assert cell.read(settings.run_dir, ended=False) is None
