"""The record: what it refuses, and that its JSON form gives it back."""

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from case_lightning.data import Edit, Locality, read_edits
from case_lightning.errors import DataError

texts = st.text(min_size=1).filter(str.strip)
edits = st.builds(
    Edit,
    id=texts,
    prompt=texts,
    target=texts,
    subject=st.none() | texts,
    rephrases=st.lists(texts, max_size=3).map(tuple),
    locality=st.lists(st.builds(Locality, texts, st.none() | texts), max_size=3).map(tuple),
    true_answer=st.none() | texts,
)


@settings(database=None, deadline=None)
@given(edits)
def test_json_round_trip(edit: Edit) -> None:
    assert Edit.from_json(edit.to_json()) == edit


@settings(database=None, deadline=None, max_examples=30)
@given(stream=st.lists(edits, min_size=1, max_size=4, unique_by=lambda edit: edit.id))
def test_file_round_trip(stream: list[Edit], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("edits") / "edits.jsonl"
    path.write_text("\n".join(edit.to_json() for edit in stream), encoding="utf-8")
    assert read_edits(path) == stream


def test_json_uses_our_names_on_one_line() -> None:
    edit = Edit("a", "The capital of\nFreedonia is", "Fredville", locality=(Locality("2 + 2 is", "4"),))
    assert "\n" not in edit.to_json()
    assert json.loads(edit.to_json()) == {
        "id": "a",
        "prompt": "The capital of\nFreedonia is",
        "target": "Fredville",
        "subject": None,
        "rephrases": [],
        "locality": [{"prompt": "2 + 2 is", "answer": "4"}],
        "true_answer": None,
    }


WRONG_EDITS = [
    ({"id": ""}, "id: expected text that is not blank, found blank text ''"),
    ({"id": 3}, "id: expected text that is not blank, found number 3"),
    ({"prompt": " \t\n"}, r"prompt: expected text that is not blank, found blank text ' \\t\\n'"),
    ({"target": 2006}, "target: expected text that is not blank, found number 2006"),
    ({"target": None}, "target: expected text that is not blank, found nothing"),
    ({"target": float("nan")}, "target: expected text that is not blank, found number nan"),
    ({"target": "\ud83d"}, "half of a surrogate pair"),
    ({"subject": ""}, "subject: expected text"),
    ({"true_answer": ["a"]}, r"true_answer: expected text that is not blank, found list \['a'\]"),
    ({"rephrases": ["a"]}, "rephrases: expected a tuple of str, found list"),
    ({"rephrases": "a"}, "rephrases: expected a tuple of str, found text"),
    ({"rephrases": ("a", " ")}, r"rephrases\[1\]: expected text"),
    ({"locality": ({"prompt": "a"},)}, "locality: expected a tuple of Locality"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_EDITS)
def test_wrong_edit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Edit(**{"id": "a", "prompt": "p", "target": "t"} | change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("prompt", "answer"), [("", "a"), ("p", ""), ("p", 4)])
def test_wrong_locality_is_refused(prompt: str, answer: str) -> None:
    with pytest.raises(DataError, match="locality"):
        Locality(prompt, answer)


WRONG_JSON = [
    ("{", "edit: broken JSON"),
    ("[" * 100_000, "edit: broken JSON"),
    ("[]", r"edit: expected an object, found list \[\]"),
    ('{"prompt": "p", "target": "t"}', "id: expected text, found nothing"),
    ('{"id": true, "prompt": "p", "target": "t"}', "id: expected text that is not blank, found truth value True"),
    ('{"id": "a", "prompt": "p", "target": "t", "locality": {}}', "locality: expected a list"),
    ('{"id": "a", "prompt": "p", "target": "t", "locality": ["p"]}', r"locality\[0\]: expected an object"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_JSON)
def test_wrong_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Edit.from_json(text)


def test_edit_is_a_value() -> None:
    edit = Edit("a", "p", "t", rephrases=("r",))
    assert pickle.loads(pickle.dumps(edit)) == edit  # noqa: S301
    assert hash(edit) == hash(Edit("a", "p", "t", rephrases=("r",)))
    assert edit.to(torch.device("cpu"), non_blocking=True) is edit
    with pytest.raises(AttributeError):
        edit.target = "u"  # type: ignore[misc]
