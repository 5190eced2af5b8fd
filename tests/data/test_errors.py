"""What cannot be read: each mistake gives one line with file, record, field, what was found and what to do."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from case_lightning.data import EditReader, MissingDataError, read_edits
from case_lightning.errors import CaseError, DataError

GOOD = {"prompt": "p", "target": "t"}
ZSRE = {"src": "p", "alt": "t"}
FLAT = {"prompt": "p", "target_new": "t"}
REWRITE = {"prompt": "{} is", "subject": "s", "target_new": {"str": "t"}, "target_true": {"str": "u"}}

WRONG_RECORDS = [
    (GOOD | {"target": 2006}, "target: expected text that is not blank, found number 2006"),
    (GOOD | {"target": None}, "target: expected text that is not blank, found nothing"),
    (GOOD | {"target": float("nan")}, "target: expected text that is not blank, found number nan"),
    (GOOD | {"target": ["t"]}, "target: expected text that is not blank, found list ['t']"),
    (GOOD | {"target": True}, "target: expected text that is not blank, found truth value True"),
    (GOOD | {"prompt": "  "}, "prompt: expected text that is not blank, found blank text '  '"),
    ({"target": "t"}, "prompt: expected text that is not blank, found nothing"),
    (GOOD | {"id": 1.5}, "id: expected text that is not blank, found number 1.5"),
    (GOOD | {"rephrases": [["a"], [7]]}, "rephrases: expected text that is not blank, found number 7"),
    (GOOD | {"locality": "q"}, "locality: expected a list of objects with prompt and answer, found text 'q'"),
    (GOOD | {"rephrase": ["r"]}, "rephrase: expected a field of an edit, did you mean rephrases?"),
    (GOOD | {"target": "a\ud83d"}, "target: expected whole characters (position 1 is half of a surrogate pair)"),
    ("just text", "expected an object with a prompt and a target, found text 'just text'"),
    (None, "expected an object with a prompt and a target, found nothing"),
    (ZSRE | {"alt": ""}, "alt: expected text that is not blank, found blank text ''"),
    (ZSRE | {"src": 4}, "src: expected text that is not blank, found number 4"),
    (ZSRE | {"loc": ["a", "b"], "loc_ans": ["a"]}, "loc: expected one list of answers for each of its 2 prompts"),
    (ZSRE | {"loc": "a", "loc_ans": 4}, "loc (its answer): expected text that is not blank, found number 4"),
    (FLAT | {"target_new": {"str": "t"}}, "target_new: expected text that is not blank, found object {'str': 't'}"),
    (FLAT | {"locality": "q"}, "locality: expected an object, found text 'q'"),
    (FLAT | {"locality": {"near": ["q"]}}, "locality.near: expected an object, found text 'q'"),
    ({"requested_rewrite": []}, "requested_rewrite: expected an object, found list []"),
    ({"requested_rewrite": REWRITE | {"subject": None}}, "requested_rewrite.subject: expected text that is not blank"),
    ({"requested_rewrite": REWRITE | {"target_new": {}}}, "requested_rewrite.target_new: expected text that is not"),
    (
        {"requested_rewrite": REWRITE, "neighborhood_prompts": {"a": 1}},
        "neighborhood_prompts: expected a list of texts",
    ),
]


@pytest.mark.parametrize(("record", "message"), WRONG_RECORDS)
def test_wrong_record_names_place_and_remedy(record: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([record]))
    with pytest.raises(DataError) as caught:
        read_edits(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: record 0: {message}")
    assert line.endswith("; correct the record, or pass --data.on_error skip to leave such records out")
    assert "\n" not in line


def test_long_values_are_shortened(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([GOOD | {"target": [list(range(1000)), "x" * 10_000]}]))
    with pytest.raises(DataError, match="found list") as caught:
        read_edits(path)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    lines = [json.dumps(GOOD | {"subject": "a\u2028b"}, ensure_ascii=False), "", json.dumps(GOOD), '{"prompt": "p", ']
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"record 2 \(line 4\): broken JSON at column 17 \(Expecting property name"):
        read_edits(path)
    assert len(read_edits(path, limit=2)) == 2


def test_rows_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    path.write_text("prompt,target\np,t\n\nq\n")
    with pytest.raises(DataError, match=r"record 1 \(line 4\): expected 2 cells as in the header, found 1"):
        read_edits(path)


WRONG_FILES: list[tuple[str, bytes, str]] = [
    ("edits.json", b'[{"prompt": "p",\n "target" "t"}]', r"broken JSON \(.*line 2 column 11"),
    ("edits.json", b"[" * 100_000, "broken JSON"),
    ("edits.json", b"[" + b"1" * 5000 + b"]", "broken JSON"),
    (
        "edits.json",
        b'[{"prompt": "p"},\n{"target": "\xe9t\xe9"}]',
        r"expected UTF-8 text, .*0xe9 at offset 30 \(line 2\)",
    ),
    ("edits.json", b"", "expected edits, found none; the data set is empty"),
    ("edits.json", b" \n", "the data set is empty"),
    ("edits.json", b"[]", "the data set is empty"),
    ("edits.json", b'{"data": []}', "the data set is empty"),
    ("edits.json", b'{"data": {"a": 1}}', "expected a list of edits, .* found object"),
    ("edits.json", b'"text"', "expected a list of edits, .* found text 'text'"),
    ("edits.jsonl", b"\n\n", "the data set is empty"),
    ("edits.csv", b"", "the data set is empty"),
    ("edits.csv", b"prompt,target\n", "the data set is empty"),
    ("edits.csv", b'prompt,target\np,"t\n', r"broken CSV at line 2 \(unexpected end of data\)"),
    ("edits.csv", b"prompt,prompt\np,q\n", "line 1: more than one column is named prompt"),
    ("edits.csv", b"prompt,target\np,\xff\n", "expected UTF-8 text"),
    ("edits.parquet", b"PAR?", "cannot be read as Parquet"),
    ("edits.parquet", b"", "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("file_name", "content", "message"), WRONG_FILES)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_wrong_file(file_name: str, content: bytes, message: str, on_error: str, tmp_path: Path) -> None:
    path = tmp_path / file_name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_edits(path, on_error=on_error)  # type: ignore[arg-type]
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ""])
def test_missing_file_and_directory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"edits{suffix}"
    with pytest.raises(MissingDataError, match=rf"^{path}: no such file; give an existing one as data\.path"):
        read_edits(path)
    with pytest.raises(FileNotFoundError):
        read_edits(path)
    path.mkdir()
    with pytest.raises(DataError, match="expected a file, found a directory"):
        read_edits(path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_impossible_path(path: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_edits(path)


def test_skip_keeps_a_count_and_the_reasons(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    twin = json.dumps(GOOD | {"id": "0"})
    lines = [twin, "{", json.dumps(GOOD | {"target": 5}), twin, json.dumps(GOOD)]
    path.write_text("\n".join(lines))
    reader = EditReader(on_error="skip")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"3 of 5 records skipped; the first: .*record 1 \(line 2\): broken JSON"):
            assert [edit.id for edit in reader.read(path)] == ["0", "4"]
        assert len(reader.skipped) == 3
    assert "line 3): target" in reader.skipped[1]


@pytest.mark.parametrize("first", ["{", "null", "{" * 100_000, '{"prompt": ' + "1" * 5000 + "}", "oops"])
def test_a_broken_first_line_is_an_error_of_its_record_alone(first: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(f"{first}\n{json.dumps(GOOD)}\n")
    with pytest.raises(DataError, match=r"record 0 \(line 1\): "):
        read_edits(path)
    with pytest.warns(UserWarning, match="1 of 2 records skipped"):
        assert len(read_edits(path, on_error="skip")) == 1


def test_skip_with_nothing_left(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([GOOD | {"target": 5}, GOOD | {"target": ""}]))
    with pytest.raises(DataError, match=r"none of 2 records can be used; the first: .*record 0: target"):
        read_edits(path, on_error="skip")


def test_duplicate_id_names_both_places(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text("\n".join(json.dumps(GOOD | {"id": name}) for name in ("a", "b", "a")))
    with pytest.raises(DataError, match=r"record 2 \(line 3\): id: .* found 'a', which .*record 0 \(line 1\) has"):
        read_edits(path)


NAMES = ["id", "case_id", "prompt", "target", "subject", "rephrases", "locality", "true_answer", "str", "data"]
NAMES += ["src", "alt", "loc", "loc_ans", "answers", "requested_rewrite", "neighborhood_prompts"]
NAMES += ["target_new", "rephrase_prompt", "ground_truth", "locality_prompt", "locality_ground_truth"]
scalars = st.none() | st.booleans() | st.integers(0, 9) | st.floats() | st.sampled_from(["", "a", "{}", "[", "\ud83d"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
)


@settings(database=None, deadline=None)
@given(value=values | st.lists(st.dictionaries(st.sampled_from(NAMES), values, min_size=2), min_size=1, max_size=3))
def test_any_json_is_edits_or_one_line(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "edits.json"
    path.write_text(json.dumps(value))
    try:
        line = f"{path}: {len(read_edits(path))} edits"
    except DataError as error:
        line = str(error)
    assert line.startswith(str(path))
    assert "\n" not in line


def test_a_missing_id_takes_none_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([GOOD | {"case_id": 1}, GOOD, GOOD, GOOD | {"id": "0"}]))
    assert [edit.id for edit in read_edits(path)] == ["1", "record-1", "2", "0"]
    assert [edit.id for edit in read_edits(path, offset=1, limit=1)] == ["record-1"]


def test_errors_are_ours_to_catch() -> None:
    assert issubclass(MissingDataError, CaseError)
    assert issubclass(DataError, ValueError)


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    os.mkfifo(path)
    with pytest.raises(DataError, match="expected a file that can be read again, found a pipe or device; save it as a"):
        read_edits(path)
