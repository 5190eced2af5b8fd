"""Every format, from small records written here: it is recognised, and each field lands in its place."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from case_lightning.data import FORMATS, Edit, Locality, read_edits
from case_lightning.errors import ConfigError, DataError

PROMPT, TARGET = "The capital of Freedonia is", "Fredville"
NEIGHBOUR, ANSWER = "nq question: who sings the anthem", "Rufus"
REPHRASE = "Freedonia's capital is"
FULL = Edit("0", PROMPT, TARGET, "Freedonia", (REPHRASE,), (Locality(NEIGHBOUR, ANSWER),), "Glee City")
BARE = Edit("0", PROMPT, TARGET)

ZSRE = {"src": PROMPT, "alt": TARGET}
FLAT = {"prompt": PROMPT, "target_new": TARGET}
REWRITE = {"prompt": "The capital of {} is", "target_new": {"str": TARGET, "id": "Q1"}, "subject": "Freedonia"}
OWN = {"prompt": PROMPT, "target": TARGET}
OWN_NEIGHBOUR = {"prompt": NEIGHBOUR, "answer": ANSWER}
PAIR = {"prompt": NEIGHBOUR, "ground_truth": ANSWER}

RECORDS: dict[str, tuple[str, dict[str, object], Edit]] = {
    "own": (
        "edits",
        OWN
        | {"subject": "Freedonia", "rephrases": [REPHRASE], "locality": [OWN_NEIGHBOUR], "true_answer": "Glee City"},
        FULL,
    ),
    "own, bare": ("edits", OWN, BARE),
    "own, one rephrase as text": ("edits", OWN | {"rephrases": REPHRASE}, Edit("0", PROMPT, TARGET, None, (REPHRASE,))),
    "own, text in a bracket": ("edits", OWN | {"rephrases": "[F] is"}, Edit("0", PROMPT, TARGET, None, ("[F] is",))),
    "own, blanks": (
        "edits",
        OWN | {"id": " ", "subject": "", "rephrases": ["", None], "locality": [{"prompt": ""}], "true_answer": []},
        BARE,
    ),
    "zsre": (
        "zsre",
        ZSRE
        | {"subject": "Freedonia", "rephrase": REPHRASE, "loc": NEIGHBOUR, "loc_ans": ANSWER, "answers": ["Glee City"]}
        | {"pred": "x", "cond": "x >> y || z", "portability": {"New Question": "q", "New Answer": "a"}},
        FULL,
    ),
    "zsre, bare": ("zsre", ZSRE, BARE),
    "zsre, blanks": (
        "zsre",
        ZSRE | {"subject": [], "rephrase": "", "loc": [], "loc_ans": "a", "answers": {}},
        BARE,
    ),
    "zsre, no answers": (
        "zsre",
        ZSRE | {"rephrase": [], "loc": NEIGHBOUR, "loc_ans": "", "answers": [""]},
        Edit("0", PROMPT, TARGET, locality=(Locality(NEIGHBOUR, None),)),
    ),
    "zsre, flat": (
        "easyedit",
        FLAT
        | {"subject": "Freedonia", "rephrase_prompt": REPHRASE, "locality": {"neighborhood": PAIR}}
        | {"ground_truth": ["Glee City", "Gleeville"]},
        FULL,
    ),
    "counterfact": (
        "counterfact",
        {
            "case_id": 7,
            "requested_rewrite": REWRITE | {"target_true": {"str": "Glee City", "id": "Q2"}, "relation_id": "P36"},
            "paraphrase_prompts": [REPHRASE, "Shayna ate. Freedonia, whose capital is"],
            "neighborhood_prompts": ["The capital of Sylvania is", "In Osterlich the capital is"],
            "generation_prompts": ["Freedonia is"],
        },
        Edit(
            "7",
            PROMPT,
            TARGET,
            "Freedonia",
            (REPHRASE, "Shayna ate. Freedonia, whose capital is"),
            (Locality("The capital of Sylvania is", "Glee City"), Locality("In Osterlich the capital is", "Glee City")),
            "Glee City",
        ),
    ),
    "counterfact, bare": ("counterfact", {"requested_rewrite": REWRITE}, Edit("0", PROMPT, TARGET, "Freedonia")),
    "counterfact, prompt filled": (
        "counterfact",
        {"requested_rewrite": {"prompt": PROMPT, "target_new": TARGET}, "neighborhood_prompts": None},
        BARE,
    ),
    "counterfact, answered neighbours": (
        "counterfact",
        {"requested_rewrite": REWRITE, "neighborhood_prompts": [{"prompt": NEIGHBOUR, "target": ANSWER}]},
        Edit("0", PROMPT, TARGET, "Freedonia", (), (Locality(NEIGHBOUR, ANSWER),)),
    ),
    "counterfact, flat": (
        "easyedit",
        FLAT
        | {"case_id": 0, "subject": "Freedonia", "ground_truth": "Glee City", "rephrase_prompt": REPHRASE}
        | {"locality_prompt": NEIGHBOUR, "locality_ground_truth": ANSWER},
        FULL,
    ),
    "selfcheckgpt": (
        "easyedit",
        FLAT | {"subject": "Freedonia", "locality_prompt": NEIGHBOUR, "locality_ground_truth": ANSWER},
        Edit("0", PROMPT, TARGET, "Freedonia", (), (Locality(NEIGHBOUR, ANSWER),)),
    ),
    "selfcheckgpt, bare": ("easyedit", FLAT | {"locality_prompt": " ", "locality_ground_truth": ""}, BARE),
    "temporal": ("easyedit", FLAT | {"ood_rephrase": "Freedonia is a country of few laws and many songs."}, BARE),
    "knowedit": (
        "easyedit",
        FLAT
        | {"subject": "Freedonia", "rephrase": REPHRASE, "ground_truth": [["Glee City"], ["Gleeville"]]}
        | {"portability": {"Reasoning": [{"prompt": "p", "ground_truth": [["a"]]}]}}
        | {"locality": {"Relation_Specificity": [{"prompt": NEIGHBOUR, "ground_truth": [[ANSWER, "Rufus T."]]}]}},
        FULL,
    ),
    "knowedit, two groups": (
        "easyedit",
        FLAT
        | {
            "locality": {
                "Relation_Specificity": [
                    {"prompt": [NEIGHBOUR, "2 + 2 is"], "ground_truth": [[ANSWER], ["4", "four"]]}
                ],
                "Forgetfulness": [{"prompt": ["Who rules?"], "ground_truth": []}, None],
                "Other": None,
            }
        },
        Edit(
            "0",
            PROMPT,
            TARGET,
            locality=(Locality(NEIGHBOUR, ANSWER), Locality("2 + 2 is", "4"), Locality("Who rules?", None)),
        ),
    ),
    "knowedit, wikibio": (
        "easyedit",
        {"text": PROMPT, "labels": TARGET, "concept": "Freedonia", "locality": {}},
        Edit("0", PROMPT, TARGET, "Freedonia"),
    ),
}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("chosen", ["auto", "by name"])
def test_record_is_read(name: str, chosen: str, tmp_path: Path) -> None:
    format_name, record, expected = RECORDS[name]
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([record]))
    assert read_edits(path, format="auto" if chosen == "auto" else format_name) == [expected]


ALIASES = [("zsre", FLAT), ("counterfact", FLAT), ("selfcheckgpt", FLAT), ("temporal", FLAT), ("knowedit", FLAT)]


@pytest.mark.parametrize(("format_name", "record"), ALIASES)
def test_a_data_set_goes_by_its_own_name(format_name: str, record: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([record]))
    assert read_edits(path, format=format_name) == [BARE]


def test_text_is_kept_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([{"src": "Who? ", "alt": " Ré\u2028né\U0001f600 "}]))
    assert [(edit.prompt, edit.target) for edit in read_edits(path)] == [("Who? ", " Ré\u2028né\U0001f600 ")]


def test_format_is_told_by_the_first_record_that_tells(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(["header", {"prompt": "p"}, ZSRE]))
    with pytest.warns(UserWarning, match=r"2 of 3 records skipped; the first: .*record 0: expected an object"):
        assert [edit.target for edit in read_edits(path, on_error="skip")] == [TARGET]


FRAMES: dict[str, tuple[str, Callable[[list[dict[str, str]]], str]]] = {
    "list": ("edits.json", json.dumps),
    "indented": ("edits.json", lambda records: json.dumps(records, indent=2)),
    "wrapped": ("edits.json", lambda records: json.dumps({"version": 1, "data": records})),
    "lines": ("edits.jsonl", lambda records: "\n".join(map(json.dumps, records))),
    "lines, blank and CRLF": ("edits.jsonl", lambda records: "\r\n\r\n".join(map(json.dumps, records)) + "\r\n\n"),
    "lines named json": ("edits.json", lambda records: "\n".join(map(json.dumps, records))),
    "list named jsonl": ("edits.jsonl", json.dumps),
    "no suffix": ("edits", json.dumps),
    "byte-order mark": ("edits.json", lambda records: "\ufeff" + json.dumps(records)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_json_frames(name: str, tmp_path: Path) -> None:
    file_name, write = FRAMES[name]
    path = tmp_path / file_name
    path.write_bytes(write([OWN, OWN | {"id": "b"}]).encode())
    assert [edit.id for edit in read_edits(path)] == ["0", "b"]


def test_a_lone_object_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "edit.json"
    path.write_text(json.dumps(OWN, indent=2))
    assert read_edits(path) == [BARE]


COLUMNS = {
    "prompt": "question",
    "target": "new answer",
    "rephrases": "other",
    "locality_prompt": "unrelated",
    "locality_answer": "its answer",
}
ROWS = [
    {
        "question": "Who?",
        "new answer": "Ré, né",
        "other": '["Whom?", "Whose?"]',
        "unrelated": "2 + 2",
        "its answer": "4",
    },
    {"question": "When?", "new answer": "1933", "other": "At what\ntime?", "unrelated": "", "its answer": ""},
    {"question": "Where?", "new answer": "there", "other": "", "unrelated": "1 + 1", "its answer": ""},
]
TABLE_EDITS = [
    Edit("0", "Who?", "Ré, né", None, ("Whom?", "Whose?"), (Locality("2 + 2", "4"),)),
    Edit("1", "When?", "1933", None, ("At what\ntime?",)),
    Edit("2", "Where?", "there", None, (), (Locality("1 + 1", None),)),
]


def write_csv(path: Path, rows: list[dict[str, object]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), path)


TABLES: dict[str, Callable[[Path, list[dict[str, object]]], None]] = {
    "edits.csv": write_csv,
    "edits.CSV": write_csv,
    "edits.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "edits.TSV": lambda path, rows: write_csv(path, rows, "\t"),
    "edits.parquet": write_parquet,
    "edits.json": lambda path, rows: path.write_text(json.dumps(rows)) and None,
}


@pytest.mark.parametrize("file_name", TABLES)
def test_table_with_a_column_map(file_name: str, tmp_path: Path) -> None:
    TABLES[file_name](tmp_path / file_name, ROWS)
    assert read_edits(tmp_path / file_name, columns=COLUMNS) == TABLE_EDITS


@pytest.mark.parametrize("file_name", ["edits.csv", "edits.parquet"])
def test_table_with_the_names_of_a_format_needs_no_map(file_name: str, tmp_path: Path) -> None:
    TABLES[file_name](tmp_path / file_name, [FLAT | {"subject": "Freedonia", "locality_prompt": "", "note": "x"}])
    assert read_edits(tmp_path / file_name) == [Edit("0", PROMPT, TARGET, "Freedonia")]


@pytest.mark.parametrize("cell", ["[MASK] is the capital of", "[" * 100_000, "[" + "1" * 5000])
def test_a_cell_that_opens_with_a_bracket_is_a_text(cell: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "target", "rephrases"], ["p", "t", cell]])
    assert list(read_edits(path)[0].rephrases) == [cell]


def test_a_cell_may_hold_an_article(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    path.write_text(f"prompt,target,article\np,t,{'x' * 200_000}\n")
    assert read_edits(path)[0].target == "t"


def test_parquet_with_a_date_that_python_cannot_hold(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    dates = arrow.array([2**62], arrow.timestamp("us"))
    parquet.write_table(arrow.table({"prompt": ["Who?"], "target": ["you"], "when": dates}), tmp_path / "edits.parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_edits(str(tmp_path / "edits.parquet"))


def test_a_list_as_python_writes_it_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    path.write_text("prompt,target,rephrases\nWho?,you,\"['x y', 'z']\"\n")
    with pytest.raises(DataError, match=r"rephrases: expected a list as JSON text, found text .*x y"):
        read_edits(str(path))


def test_an_empty_list_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text('{"prompt": "Who?", "target": "you", "locality": [], "locality_prompt": "Where?"}\n')
    assert [one.prompt for one in read_edits(str(path))[0].locality] == ["Where?"]


def test_parquet_with_lists_and_nulls(tmp_path: Path) -> None:
    rows = [OWN | {"rephrases": [REPHRASE], "locality": [OWN_NEIGHBOUR], "src": None}, OWN | {"prompt": "Who?"}]
    write_parquet(tmp_path / "edits.parquet", rows)
    expected = Edit("0", PROMPT, TARGET, None, (REPHRASE,), (Locality(NEIGHBOUR, ANSWER),))
    assert read_edits(tmp_path / "edits.parquet") == [expected, Edit("1", "Who?", TARGET)]


WRONG_SETTINGS = [
    ({"columns": {"question": "prompt"}}, ConfigError, "data.columns: expected a field of id, prompt.*'question'"),
    ({"columns": {"prompt": "quest"}}, ConfigError, r"data.columns.prompt: expected a column of the data \(.*'quest'"),
    ({"columns": {"prompt": "prompt"}, "format": "zsre"}, ConfigError, "data.format: expected auto beside"),
    ({"format": "zrse"}, ConfigError, "data.format: expected auto or one of edits, zsre.*'zrse'"),
    ({"format": "zsre"}, DataError, "record 0: src: expected text that is not blank, found nothing"),
    ({"on_error": "ignore"}, ConfigError, "data.on_error: expected raise or skip, found 'ignore'"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), WRONG_SETTINGS)
def test_wrong_settings(settings: dict[str, object], kind: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([OWN]))
    with pytest.raises(kind, match=message):
        read_edits(path, **settings)  # type: ignore[arg-type]


def test_unknown_format_names_what_it_saw(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([{"question": "q", "answer": "a"}]))
    with pytest.raises(DataError, match=r"record 0: its fields \(question, answer\) are of no known format") as caught:
        read_edits(path)
    assert all(name in str(caught.value) for name in (*FORMATS, "--data.columns.prompt question"))


def test_a_record_of_ours_without_its_target_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([{"id": "one", "prompt": "Who leads Kvint?", "subject": "Kvint"}]))
    with pytest.raises(DataError, match="record 0: target: expected text that is not blank, found nothing"):
        read_edits(path)
