"""Files that cannot be used: of edits, of base models, of runs."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.bad_input.place import Case, Place, check_case
from tests.editing.tiny_run import command, make_edits

GOOD = make_edits(1)[0].to_json()
RECORD = {"prompt": "The capital of Freedonia is", "target": "Freeville"}


def one(**fields: object) -> str:
    return json.dumps(RECORD | fields) + "\n"


def cut(path: Path, share: float) -> bytes:
    content = path.read_bytes()
    return content[: int(len(content) * share)]


def copy_model(place: Place) -> Path:
    return Path(shutil.copytree(place.model, place.folder / "base"))


def break_base(place: Place, name: str, content: bytes | None) -> str:
    model = copy_model(place)
    if content is None:
        (model / name).unlink()
    else:
        (model / name).write_bytes(content)
    return place.refuse_fit("--base.model", model)


def break_run(place: Place, name: str, content: bytes | None) -> str:
    path = place.run / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return place.refuse("generate", "--run", place.run, "--prompt", "Who")


def set_version(place: Place, version: int) -> str:
    with closing(sqlite3.connect(place.run / "ledger.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    return place.refuse("history", place.run, "list")


def fit_into(place: Place, folder: Path) -> str:
    return place.refuse("fit", *command(place.model, place.data, folder))


EDITS: dict[str, Case] = {
    "no such file": ("--data.path", lambda place: place.refuse_fit("--data.path", place.folder / "none.jsonl")),
    "a directory": ("--data.path", lambda place: place.refuse_fit("--data.path", place.folder)),
    "a path with NUL": ("--data.path", lambda place: place.refuse_fit("--data.path", "a\0b")),
    "a hub address without a name": ("--data.path", lambda place: place.refuse_fit("--data.path", "hf://")),
    "an empty file": ("--data.path", lambda place: place.refuse_data("a.jsonl", "")),
    "JSON that is cut off": ("--data.path", lambda place: place.refuse_data("a.json", f"[{GOOD}")),
    "a line of JSONL that is cut off": ("--data.path", lambda place: place.refuse_data("a.jsonl", f"{GOOD}\n{{")),
    "100,000 brackets": ("--data.path", lambda place: place.refuse_data("a.json", "[" * 100_000)),
    "bytes that are not UTF-8": ("--data.path", lambda place: place.refuse_data("a.jsonl", b'{"prompt": "\xff"}')),
    "half of a surrogate pair": ("--data.path", lambda place: place.refuse_data("a.jsonl", one(target="a\ud83d"))),
    "no prompt": ("--data.path", lambda place: place.refuse_data("a.jsonl", '{"target": "t"}')),
    "a number for a target": ("--data.path", lambda place: place.refuse_data("a.jsonl", one(target=2006))),
    "NaN for a target": ("--data.path", lambda place: place.refuse_data("a.jsonl", one(target=float("nan")))),
    "a text where records should be": ("--data.path", lambda place: place.refuse_data("a.jsonl", GOOD + '\n"text"')),
    "a field whose name is misspelt": ("--data.path", lambda place: place.refuse_data("a.jsonl", one(rephrase=["r"]))),
    "fields of no known format": ("--data.path", lambda place: place.refuse_data("a.jsonl", '{"q": "a", "a": "b"}')),
    "two records with one id": ("--data.path", lambda place: place.refuse_data("a.jsonl", one(id="x") + one(id="x"))),
    "a CSV row with a cell too few": ("--data.path", lambda place: place.refuse_data("a.csv", "prompt,target\nq\n")),
    "a CSV quote left open": ("--data.path", lambda place: place.refuse_data("a.csv", 'prompt,target\np,"t\n')),
    "two CSV columns of one name": ("--data.path", lambda place: place.refuse_data("a.csv", "prompt,prompt\np,q\n")),
    "no Parquet in a .parquet": ("--data.path", lambda place: place.refuse_data("a.parquet", b"PAR?")),
}
BASES: dict[str, Case] = {
    "a .gguf that is not there": ("--base.model", lambda place: place.refuse_fit("--base.model", "none.gguf")),
    "a .gguf that is none": (
        "--base.model",
        lambda place: place.refuse_fit("--base.model", place.write("a.gguf", b"GGUF")),
    ),
    "a folder without config.json": ("--base.model", lambda place: break_base(place, "config.json", None)),
    "a base's config.json that is cut off": ("--base.model", lambda place: break_base(place, "config.json", b"{")),
    "a base's weights that are cut off": (
        "--base.model",
        lambda place: break_base(place, "model.safetensors", cut(place.model / "model.safetensors", 0.5)),
    ),
    "an adapter for a base": ("--base.model", lambda place: place.refuse_fit("--base.model", place.run / "adapter")),
}
RUNS: dict[str, Case] = {
    "a file in the run's place": ("--run_dir", lambda place: fit_into(place, place.write("file", ""))),
    "a folder below a file": ("--run_dir", lambda place: fit_into(place, place.write("file", "") / "run")),
    "a folder of other files": ("--run_dir", lambda place: fit_into(place, place.write("file", "").parent)),
    "config.yaml is gone": ("a run", lambda place: break_run(place, "config.yaml", None)),
    "config.yaml of something else": ("a run", lambda place: break_run(place, "config.yaml", b"- 1")),
    "the ledger is gone": ("a run", lambda place: break_run(place, "ledger.sqlite", None)),
    "the ledger is cut off": (
        "a run",
        lambda place: break_run(place, "ledger.sqlite", cut(place.run / "ledger.sqlite", 0.4)),
    ),
    "the ledger is a text": ("a run", lambda place: break_run(place, "ledger.sqlite", b"a text " * 100)),
    "the ledger of a later version": ("a run", lambda place: set_version(place, 3)),
    "the ledger of an earlier version": ("a run", lambda place: set_version(place, 1)),
}
CASES = EDITS | BASES | RUNS


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file(case: str, place: Place) -> None:
    check_case("files", CASES, case, place)
