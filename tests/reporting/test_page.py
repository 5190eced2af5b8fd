import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from case_lightning.errors import RunError
from case_lightning.reporting import write_report
from case_lightning.reporting.wording import write_number
from tests.reporting.fake_run import (
    build_edits,
    build_examples,
    build_masks,
    build_metrics,
    write_examples,
    write_ledger,
    write_metrics,
    write_run,
)
from tests.reporting.parsed_page import ParsedPage

_SECTIONS = [
    "headline",
    "retention",
    "allocation",
    "conflict",
    "growth",
    "sensitivity",
    "cost",
    "examples",
    "scores",
    "settings",
]
_HOSTILE = "</p><script>alert(1)</script> & \"quoted\" 'too' <!-- \x00\ud800 ]]>"


def _write_page(*runs: Path) -> str:
    return write_report(list(runs), runs[0] / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def pages(run: Path, tmp_path: Path) -> list[ParsedPage]:
    """The page of one run, of three runs, and of a run of which nothing is known."""
    bare = tmp_path / "bare"
    bare.mkdir()
    write_metrics(bare, {})
    others = [write_run(tmp_path / "b", 60, skill=0.8), write_run(tmp_path / "c", 40, protocol="harness")]
    return [ParsedPage(_write_page(*runs)) for runs in ([run], [run, *others], [bare])]


def test_page_loads_nothing(pages: list[ParsedPage]) -> None:
    for page in pages:
        names = {name for name, _ in page.elements}
        assert not names & {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base", "form"}
        assert not [page.values(name) for name in ("src", "href", "xlink:href", "srcset") if page.values(name)]
        assert not re.search(r"url\(|@import|https?:", "".join(page.texts["style"]))
        assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")


def test_page_is_well_formed(pages: list[ParsedPage]) -> None:
    for page in pages:
        assert page.mismatched == []
        assert len(page.values("id")) == len(set(page.values("id")))
        named = {word for value in page.values("aria-labelledby") for word in value.split()}
        assert named
        assert named <= set(page.values("id"))


def test_every_section_is_there(pages: list[ParsedPage]) -> None:
    for page in pages:
        assert [section["id"] for section in page.attributes("section")] == _SECTIONS
        assert len(page.texts["h2"]) == len(_SECTIONS)


def test_drawings_and_tables_can_be_read_out(pages: list[ParsedPage]) -> None:
    for page in pages[:2]:
        drawings = [each for each in page.attributes("svg") if each.get("role") == "img"]
        hidden = [each for each in page.attributes("svg") if each.get("aria-hidden") == "true"]
        assert len(drawings) + len(hidden) == len(page.attributes("svg"))
        assert all(len((each["aria-labelledby"] or "").split()) == 2 for each in drawings)
        assert {each.get("scope") for each in page.attributes("th")} == {"col", "row"}
        assert len(page.attributes("caption")) == len(page.attributes("table"))


def test_page_of_one_run_says_what_the_run_holds(run: Path) -> None:
    page = ParsedPage(_write_page(run))
    text = "\n".join(word for words in page.texts.values() for word in words).replace("\N{NO-BREAK SPACE}", " ")
    assert page.texts["h3"][:4] == ["Reliability", "Generalization", "Locality", "Perplexity"]
    for expected in (
        "120 edits of ZsRE into SmolLM2-135M-Instruct in batches of 10 · protocol wise",
        "0.974",
        "before 0.171",
        "before 1,285",
        "982 kB",
        "What the adapter file holds",
        "Router keys",
        "281 kB",
        "8.18 kB",
        "1.87 GB",
        "1.04 times",
        "Generated exact match",
        "unedited model",
        "superseded or undone since",
        "opened the subspace",
        "The bridge of Tulcea was designed by John Smith in 1889.",
        "learning_rate: 0.005",
        "2.13.0",
        "2026-03-01T09:01:59Z",
    ):
        assert expected in text


def test_scores_stand_in_the_column_of_their_time(run: Path) -> None:
    page = _write_page(run)
    cells = re.findall(r'<tr><th scope="row">(Reliability|Exact match)</th><td>(.+?)</td></tr>', page)
    assert [(name, row.split("</td><td>")) for name, row in cells] == [
        ("Reliability", ["0.171", "0.991", "0.974"]),
        ("Exact match", ["n/a", "n/a", "0.902"]),
    ]


def test_runs_stand_side_by_side_and_protocols_apart(run: Path, tmp_path: Path) -> None:
    others = [write_run(tmp_path / "lower", 60, skill=0.5), write_run(tmp_path / "elsewhere", 40, protocol="harness")]
    page = ParsedPage(_write_page(run, *others))
    captions = [text for text in page.texts["caption"] if text.startswith("Before and after")]
    assert captions == ["Before and after, protocol wise", "Before and after, protocol harness"]
    assert {"0.974", "0.487"} <= set(page.texts["strong"])
    descriptions = [text for text in page.texts["desc"] if text.startswith("Reliability on all edits so far")]
    wise, harness = descriptions
    assert "run: " in wise
    assert "lower: " in wise
    assert "elsewhere" not in wise
    assert "elsewhere: " in harness


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / parent / "run", 40) for parent in ("a", "b")]
    page = ParsedPage(_write_page(*runs))
    assert [text for text in page.texts["b"] if text] == [str(run) for run in runs]


def test_hostile_texts_are_shown_as_text(run: Path) -> None:
    benign = ParsedPage(_write_page(run))
    metrics = build_metrics(120) | {"base_model": _HOSTILE, "dataset": _HOSTILE, "protocol": _HOSTILE}
    write_metrics(run, metrics | {"environment": {_HOSTILE: _HOSTILE}})
    (run / "config.yaml").write_text("name: </code></pre><script>alert(2)</script>", encoding="utf-8")
    examples = [each | {"prompt": _HOSTILE, "edited": _HOSTILE} for each in build_examples(120)]
    write_examples(run, examples)
    with closing(sqlite3.connect(run / "ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE edits SET superseded_by = ?", (_HOSTILE.replace("\ud800", ""),))
    page = ParsedPage(_write_page(run))
    shown = _HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert page.mismatched == []
    assert {name for name, _ in page.elements} == {name for name, _ in benign.elements}
    assert shown in page.texts["dd"]
    assert page.texts["p"].count(shown) == 10
    assert "name: </code></pre><script>alert(2)</script>" in page.texts["code"]


@pytest.mark.parametrize("key", sorted(build_metrics(40)))
@pytest.mark.parametrize("is_absent", [True, False], ids=["absent", "null"])
def test_any_part_of_the_metrics_may_be_missing(tmp_path: Path, key: str, is_absent: bool) -> None:
    run = write_run(tmp_path / "run", 40)
    metrics: dict[str, Any] = build_metrics(40) | {key: None}
    if is_absent:
        del metrics[key]
    write_metrics(run, metrics)
    assert "None" not in _write_page(run)


def test_every_number_may_be_null_or_endless(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 40)
    for value in (None, float("nan"), float("inf")):
        metrics = build_metrics(40)
        for part in ("pre", "immediate", "final", "cost"):
            metrics[part] = dict.fromkeys(metrics[part], value)
        metrics["retention"] = [[n, value] for n, _ in metrics["retention"]]
        write_metrics(run, metrics)
        page = _write_page(run)
        assert not re.search(r"\b(None|nan|inf)\b", page)
        assert "Retention was not measured." in page


@pytest.mark.parametrize("name", ["config.yaml", "ledger.sqlite", "examples.json"])
def test_any_other_file_may_be_missing(run: Path, name: str) -> None:
    (run / name).unlink()
    page = ParsedPage(_write_page(run))
    assert [section["id"] for section in page.attributes("section")] == _SECTIONS
    assert len([each for each in page.attributes("p") if each.get("class") == "note"]) >= 1


def test_without_answers_the_highest_losses_are_shown(run: Path) -> None:
    (run / "examples.json").unlink()
    edits = [edit | {"loss": number + 0.25} for number, edit in enumerate(build_edits(120))]
    edits[3]["loss"] = edits[5]["loss"] = 777.0
    (run / "ledger.sqlite").unlink()
    write_ledger(run, edits)
    page = ParsedPage(_write_page(run))
    assert "The edits with the highest loss" in page.texts["caption"]
    shown = [text for text in page.texts["td"] if text in ("777", *map(str, range(110, 130)))]
    assert shown == ["119", "118", "117", "116", "115"]


def test_nulls_in_the_ledger_are_taken(run: Path) -> None:
    optional = ["batch", "prompt", "target", "subspace", "conflict_score", "scores", "decision", "loss", "seconds"]
    edits = [edit | {key: None for number, key in enumerate(optional) if row % 9 == number}
             for row, edit in enumerate(build_edits(120))]  # fmt: skip
    edits[0]["scores"] = "[null, NaN]"
    (run / "ledger.sqlite").unlink()
    write_ledger(run, edits)
    page = _write_page(run)
    assert "reason not noted" in page
    assert not re.search(r"\b(None|nan)\b", page)


def test_same_runs_give_the_same_page(run: Path) -> None:
    assert _write_page(run) == _write_page(run)


def test_page_of_a_long_run_stays_small(tmp_path: Path) -> None:
    assert len(_write_page(write_run(tmp_path / "run", 3000))) < 200_000


@pytest.mark.parametrize("n_masks", [1, 2])
def test_masks_are_drawn_with_their_threshold(run: Path, n_masks: int) -> None:
    with closing(sqlite3.connect(run / "ledger.sqlite")) as connection, connection:
        connection.execute("DELETE FROM masks WHERE batch >= ?", (n_masks,))
    masks = build_masks(n_masks)
    tuned, neurons = ([sum(json.loads(mask[name])) for mask in masks] for name in ("kept", "neurons"))
    (text,) = [text for text in ParsedPage(_write_page(run)).texts["figcaption"] if "tuned are" in text]
    assert f"tuned are {write_number(median(map(float, tuned)))} of {write_number(median(map(float, neurons)))}" in text
    assert f"threshold {write_number(median(mask['threshold'] for mask in masks))}, from" in text
    assert "carry 0.960 of the sensitivity" in text


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at least one run folder"):
        write_report([], tmp_path / "report.html")


def test_reading_leaves_the_run_as_it_was(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    write_report([run], tmp_path / "page.html")
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert json.loads(before["metrics.json"])["n_edits"] == 120
