"""The verbs from the command line, most of them in this process, for a new one takes seconds to start."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from case_lightning import assess, evaluate, fit, generate, history, report
from case_lightning.command_line import read_settings, run_verb
from tests.editing.tiny_run import UNRELATED, command, make_edits, read_json, read_ledger, save_base, write_edits

_ROOT = Path(__file__).resolve().parents[1]
VERBS: dict[str, Callable[[list[str] | None], object]] = {
    "fit": fit.main,
    "evaluate": evaluate.main,
    "generate": generate.main,
    "history": history.main,
    "assess": assess.main,
    "report": report.main,
}
PARTS = {
    "pre": {"reliability", "generalization", "locality", "perplexity"},
    "immediate": {"reliability"},
    "final": {
        "reliability",
        "generalization",
        "locality",
        "exact_match",
        "generalization_exact_match",
        "generated_exact_match",
        "generated_generalization_exact_match",
        "locality_bit_identical",
        "perplexity",
        "perplexity_median",
    },
    "cost": {
        "edit_seconds",
        "edit_seconds_first_100",
        "edit_seconds_last_100",
        "evaluate_seconds",
        "optimizer_steps",
        "peak_rss_bytes",
        "peak_device_bytes",
        "adapter_bytes",
        "subspaces",
        "generate_overhead",
    },
}
PLAIN = {"protocol", "base_model", "dataset", "n_edits", "batch_size", "seed", "retention", "environment"}


def call(verb: str, *words: str | Path) -> int:
    return run_verb(lambda: VERBS[verb]([str(word) for word in words]))


def spawn(verb: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", f"case_lightning.{verb}", *map(str, words)]
    return subprocess.run(  # noqa: S603
        command_line, cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command leaves, on standard error alone."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="module")
def data(model: Path) -> Path:
    return write_edits(model.parent / "edits.jsonl", 6)


@pytest.fixture(scope="module")
def run(model: Path, data: Path) -> Path:
    """A finished run of two batches, four edits and two."""
    folder = model.parent / "runs" / "first"
    assert call("fit", *command(model, data, folder)) == 0
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_the_verb_does(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(verb, "--help")
    shown = capsys.readouterr()
    assert stopped.value.code == 0
    assert shown.out.startswith(f"usage: python -m case_lightning.{verb} ")
    assert shown.err == ""


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("fit", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("--training.learning_rate", "Of Adam.", "--data.path", "File with the edits", "--run_dir"):
        assert words in shown


def test_dotted_overrides_go_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("seed: 3\ntraining:\n  steps: 7\n  learning_rate: 1e-4\ndata:\n  columns: {prompt: question}\n")
    settings = read_settings(["--config", str(path), "--training.steps", "9", "--base.layer=2"], "")
    assert (settings.seed, settings.training.steps, settings.training.learning_rate) == (3, 9, 1e-4)
    assert (settings.base.layer, settings.data.columns) == (2, {"prompt": "question"})
    assert settings.subspace.rank == read_settings([], "").subspace.rank


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--training.stps", "3"], "unknown setting 'training.stps'; did you mean training.steps?"),
        (["--stps=3"], "unknown setting 'stps'; did you mean training.steps?"),
        (["--trainig.steps", "3"], "unknown setting 'trainig.steps'; did you mean training.steps?"),
        (["--run_dri", "x"], "unknown setting 'run_dri'; did you mean run_dir?"),
        (["--zzzzzzzz", "3"], "unknown setting 'zzzzzzzz'; see --help"),
        (["--training.steps", "x"], "training.steps: expected a whole number, found x"),
        (["--training.learning_rate", "fast"], "training.learning_rate: expected a number, found fast"),
        (["--data.limit", "few"], "data.limit: expected a whole number or nothing, found few"),
        (["--evaluation.generate", "maybe"], "evaluation.generate: expected true or false, found maybe"),
        (["--data.on_error", "stop"], "data.on_error: expected Literal['raise', 'skip'], found stop"),
        (["--config", "none.yaml"], "--config none.yaml: expected a YAML file of settings; it cannot be read"),
        (["--training.steps"], "argument --training.steps: expected one argument"),
        (["edits.jsonl"], "unrecognized arguments: edits.jsonl"),
    ],
)
def test_a_mistaken_word(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", *words) == 2
    assert said in read_error(capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training:\n  stps: 3", "unknown setting 'training.stps'; did you mean training.steps?"),
        ("stps: 3", "unknown setting 'stps'; did you mean training.steps?"),
        ("trainig:\n  steps: 3", "unknown setting 'trainig'; did you mean training?"),
        ("training:\n  steps: three", "training.steps: expected a whole number, found three"),
        ("training: 3", "training: expected settings as `key: value`, found 3"),
        ("- 3", "expected settings as `key: value`, found [3]"),
        ("", "expected settings as `key: value`, found None"),
        ("training: [", "it cannot be read"),
        ("\udcff", "it cannot be read ('utf-8' codec"),
    ],
)
def test_a_mistaken_file(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert call("fit", "--config", path) == 2
    assert said in read_error(capsys)


def break_data(folder: Path, name: str, content: bytes | str) -> list[str]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ["--data.path", str(path)]


GOOD = make_edits(1)[0].to_json()
BAD_INPUTS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "missing data": (lambda folder: ["--data.path", str(folder / "none.jsonl")], "none.jsonl: no such file"),
    "broken JSON": (lambda folder: break_data(folder, "a.json", '[{"prompt": '), "a.json: broken JSON"),
    "a broken line": (lambda folder: break_data(folder, "a.jsonl", f"{GOOD}\n{{"), "record 1 (line 2): broken JSON"),
    "wrong field type": (
        lambda folder: break_data(folder, "a.jsonl", '{"prompt": 3, "target": "old"}'),
        "record 0 (line 1): prompt: expected text that is not blank, found number 3",
    ),
    "not UTF-8": (lambda folder: break_data(folder, "a.jsonl", b'{"prompt": "\xff"}'), "expected UTF-8 text"),
    "no edits": (lambda folder: break_data(folder, "a.jsonl", ""), "the data set is empty"),
    "too long": (
        lambda folder: break_data(folder, "a.jsonl", GOOD.replace("The capital", "The capital " * 70)),
        "record 0 (line 1): ",
    ),
    "unknown model": (lambda folder: ["--base.model", str(folder / "none.gguf")], "none.gguf"),
    "unknown dtype": (lambda _: ["--base.dtype", "float8"], "unknown dtype 'float8'"),
    "unknown device": (lambda _: ["--base.device", "abacus"], "unknown device 'abacus'"),
    "layer out of range": (lambda _: ["--base.layer", "3"], "layer 3 does not exist"),
    "run folder below a file": (
        lambda folder: ["--run_dir", str(folder / "file" / "run")],
        "run_dir: ",
    ),
    "learning rate nan": (lambda _: ["--training.learning_rate", ".nan"], "training.learning_rate: expected"),
    "learning rate inf": (lambda _: ["--training.learning_rate", ".inf"], "training.learning_rate: expected"),
    "no steps": (lambda _: ["--training.steps", "0"], "training.steps: expected a number above 0, found 0"),
    "negative weight": (lambda _: ["--memory.weight", "-1"], "memory.weight: expected 0 or more, found -1.0"),
    "threshold": (lambda _: ["--subspace.subject_threshold", "2"], "subspace.subject_threshold: expected 0 to 1"),
    "batch size": (lambda _: ["--data.batch_size", "0"], "data.batch_size: expected a whole number of at least 1"),
    "offset": (lambda _: ["--data.offset", "99"], "data.offset: expected less than the 6 records"),
    "strategy": (lambda _: ["--trainer.strategy", "guess"], "trainer: Lightning does not take these settings"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_ends_with_one_line_and_no_run_folder(
    case: str, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, said = BAD_INPUTS[case]
    (tmp_path / "file").touch()
    words = command(model, data, tmp_path / "run", *build(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert call("fit", *words) == 2
    assert said in read_error(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_nan_in_the_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("training:\n  learning_rate: .nan\n")
    assert call("fit", "--config", path, "--run_dir", tmp_path / "run") == 2
    assert "training.learning_rate: expected a finite number, found nan" in read_error(capsys)


def test_a_fit_that_diverges_says_so(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit", *command(model, data, tmp_path / "run", "--training.learning_rate", "1e37")) == 2
    assert "lower training.learning_rate, found 1e+37" in read_error(capsys)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_what_a_run_leaves(run: Path, data: Path) -> None:
    names = {path.name for path in run.iterdir()}
    made = {"config.yaml", "adapter", "ledger.sqlite", "metrics.json", "examples.json", "report.html", "logs"}
    assert names == made | {"snapshots", ".lock"}
    assert {path.name for path in (run / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    rows = read_ledger(run)
    assert [row["id"] for row in rows] == [edit.id for edit in make_edits(6)]
    assert [row["batch"] for row in rows] == [0, 0, 0, 0, 1, 1]
    assert [json.loads(row["record"])["target"] for row in rows] == [edit.target for edit in make_edits(6)]
    assert rows[0]["decision"] == "opened"
    assert rows[0]["conflict_score"] is None
    assert all(row["loss"] > 0 and row["seconds"] > 0 and row["created_at"] for row in rows)


def test_metrics_hold_every_part(run: Path, model: Path, data: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert metrics.keys() >= PLAIN | PARTS.keys()
    for part, names in PARTS.items():
        assert metrics[part].keys() >= names, part
        assert all(value is None or isinstance(value, (int, float)) for value in metrics[part].values())
    assert (metrics["protocol"], metrics["n_edits"], metrics["batch_size"], metrics["seed"]) == ("wise", 6, 4, 0)
    assert (metrics["base_model"], metrics["dataset"]) == (str(model), str(data))
    assert [point[0] for point in metrics["retention"]] == [4, 6]
    assert all(0 <= point[1] <= 1 for point in metrics["retention"])
    assert metrics["cost"]["optimizer_steps"] == 10 + 2  # two fits, and one consolidation of six edits
    size = (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert sum(metrics["adapter_parts"].values()) == metrics["cost"]["adapter_bytes"] == size


def test_parts_that_were_not_scored_are_null(model: Path, data: Path, tmp_path: Path) -> None:
    assert call("fit", *command(model, data, tmp_path / "run", "--evaluation.generate", "false")) == 0
    final = read_json(tmp_path / "run" / "metrics.json")["final"]
    assert final["generated_exact_match"] is final["generated_generalization_exact_match"] is None


def test_the_settings_of_a_run_repeat_it(run: Path, model: Path, data: Path) -> None:
    found = read_settings(["--config", str(run / "config.yaml")], "")
    assert found == read_settings(command(model, data, run), "")


def test_a_finished_run_is_shown_again(run: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    assert call("fit", *command(model, data, run)) == 0
    shown = capsys.readouterr()
    assert f"{run} already holds this run" in shown.out
    assert "reliability" in shown.out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == stamps


@pytest.mark.parametrize("words", [["--training.steps", "6"], ["--seed", "1"]])
def test_a_run_with_other_settings_is_refused(
    words: list[str], run: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert call("fit", *command(model, data, run, *words)) == 2
    assert f"holds a run with other settings: {words[0][2:]} was" in read_error(capsys)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == stamps


def test_evaluate_rewrites_the_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_json(run / "metrics.json")
    (run / "metrics.json").write_text(json.dumps(before | {"final": {}, "pre": {}, "harness": {}}))
    capsys.readouterr()
    assert call("evaluate", "--run", run) == 0
    after = read_json(run / "metrics.json")
    assert json.loads(capsys.readouterr().out) == after
    assert after["final"] == pytest.approx(before["final"], rel=1e-6)
    assert after["pre"] == pytest.approx(before["pre"], rel=1e-6)
    assert {key: after[key] for key in PLAIN | {"immediate"}} == {key: before[key] for key in PLAIN | {"immediate"}}
    unmoved = {key: value for key, value in after["cost"].items() if key != "evaluate_seconds"}
    assert unmoved.items() <= before["cost"].items()


def test_evaluate_on_other_records_leaves_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "metrics.json").read_bytes()
    capsys.readouterr()
    other = write_edits(tmp_path / "other.jsonl", 12)
    assert call("evaluate", "--run", run, "--data.path", other, "--data.offset", 8, "--data.limit", 3) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_records"], found["dataset"]) == (3, str(other))
    assert found["final"]["reliability"] == found["pre"]["reliability"]  # not edited, so not in scope
    assert (run / "metrics.json").read_bytes() == before


def test_generate_answers_one_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call("generate", "--run", run, "--prompt", UNRELATED, "--max_new_tokens", 3) == 0
    shown = capsys.readouterr().out
    assert shown.count("Who founded") == 1
    assert "unedited" in shown


def test_generate_answers_every_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{UNRELATED}\n\n The game was \nOn the table"))
    capsys.readouterr()
    assert call("generate", "--run", run, "--max_new_tokens", 3) == 0
    shown = capsys.readouterr().out
    assert [shown.count(words) for words in ("Who founded", "The game was", "On the table")] == [1, 1, 1]
    assert "> " not in shown


def damage(run: Path, copy: Path, name: str, content: bytes | None) -> Path:
    shutil.copytree(run, copy)
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", None, "holds no readable run"),
        ("config.yaml", b"[]", "says nothing of a base model"),
        ("ledger.sqlite", None, "ledger.sqlite is not there"),
        ("ledger.sqlite", b"no data base, but long enough to be looked at", "is not a readable ledger"),
        ("adapter/adapter_model.safetensors", b"broken", "cannot be read"),
        ("adapter/adapter_config.json", b"{", "cannot be read"),
    ],
)
def test_a_damaged_run(
    name: str, content: bytes | None, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = damage(run, tmp_path / "copy", name, content)
    capsys.readouterr()
    assert call("generate", "--run", copy, "--prompt", UNRELATED) == 2
    assert said in read_error(capsys)


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("generate", ["--run", "none"], "none holds no readable run"),
        ("evaluate", ["--run", "none"], "none holds no readable run"),
        ("generate", [], "the following arguments are required: run"),
        ("generate", ["--run", "none", "--prompt", " "], "--prompt: expected text that is not blank"),
        ("generate", ["--run", "none", "--max_new_tokens", "0"], "max_new_tokens: "),
        ("evaluate", ["--run", "none", "--batch_size", "0"], "batch_size: "),
        ("evaluate", ["--rnu", "none"], "unknown setting 'rnu'; did you mean run?"),
        ("evaluate", ["--run", "none", "--data.limt", "3"], "unknown setting 'data.limt'; did you mean data.limit?"),
    ],
)
def test_mistakes_in_the_other_verbs(
    verb: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(verb, *words) == 2
    assert said in read_error(capsys)


def test_a_run_outside_a_terminal_shows_its_tables_alone(model: Path, data: Path, tmp_path: Path) -> None:
    result = spawn("fit", *command(model, data, tmp_path / "run"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("6 edits in ")
    assert not any(ord(character) < 32 and character != "\n" for character in result.stdout)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["steps"] == 5
