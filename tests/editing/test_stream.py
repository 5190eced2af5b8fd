"""What is left to do of a stream: how records are cut into batches and named, and which of one question are made."""

import operator
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from case_lightning.config import RunSettings
from case_lightning.data import Edit
from case_lightning.data.checks import OnContradiction
from case_lightning.editing import run
from case_lightning.editing.ledger import Stream
from case_lightning.editing.run import fit_run
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.editing.stream import Plan, plan_stream
from case_lightning.errors import RunError
from tests.editing.test_session import EDITS, STREAM, open_session, state_of, write
from tests.editing.tiny_run import load_tiny, make_settings, read_ledger

NEWER = replace(EDITS[0], id="newer", target="minister")


def make_rows(edits: Sequence[Edit], stream: int = 0, **state: str) -> list[dict[str, Any]]:
    row = {"stream": stream, "batch": 0, "superseded_by": None, "undone_at": None} | state
    return [row | {"id": edit.id, "record": edit.to_json()} for edit in edits]


def ids(plan: Plan) -> list[list[str]]:
    return [[edit.id for edit in batch] for batch, _ in plan.batches()]


def follow(session: Session, records: Sequence[Edit], stream: Stream) -> None:
    """Make what is left of some data as `fit` does."""
    plan = Plan(stream, list(records), session.ledger.rows() if session.folder.started else [])
    session.begin(plan.stream)
    for batch, after in plan.batches():
        session.edit(batch, after, point=True)


def test_known_records_take_no_place_in_a_batch() -> None:
    stream = replace(STREAM, number=1, batch_size=3)
    plan = Plan(stream, EDITS[:7], make_rows([EDITS[0], EDITS[2], EDITS[6]]))
    assert ids(plan) == [[EDITS[i].id for i in part] for part in ((1, 3, 4), (5,))]
    assert [(after.n_records, after.finished) for _, after in plan.batches()] == [(5, False), (7, True)]


def test_a_stream_of_known_records_ends_in_one_empty_batch() -> None:
    plan = Plan(replace(STREAM, number=1), EDITS[:6], make_rows(EDITS[:6]))
    assert [(batch, after.n_records, after.finished) for batch, after in plan.batches()] == [([], 6, True)]
    assert list(Plan(STREAM, [], make_rows(EDITS[:6])).batches()) == []


def test_a_taken_id_gets_a_number_that_no_other_has() -> None:
    others = [replace(EDITS[0], id=name) for name in ("a", "a~2", "b")]
    records = [replace(EDITS[i], id=name) for i, name in enumerate(("a", "b", "b~2", "c"), start=1)]
    assert ids(Plan(replace(STREAM, number=2), records, make_rows(others))) == [["a~3", "b~3", "b~2", "c"]]


def test_a_stream_that_was_cut_off_is_planned_as_at_its_beginning() -> None:
    """What it superseded since and the ids that it gave away are no reason to cut or name its batches otherwise."""
    back, third = replace(EDITS[0], id="back"), replace(NEWER, id="third", target="gardener")
    stream, old = replace(STREAM, number=1, batch_size=2), make_rows(EDITS[:1])
    records = [NEWER, EDITS[1], back, third, replace(EDITS[2], id="a~1"), replace(EDITS[3], id="a")]
    old += make_rows([replace(EDITS[8], id="a")])
    whole = ids(Plan(stream, records, old))
    assert whole == [["newer", EDITS[1].id], ["back", "third"], ["a~1", "a~2"]]
    names = frozenset(edit.id for edit in records)
    made = [make_rows(records[:2], 1), make_rows([back], 1, superseded_by="third") + make_rows([third], 1)]
    made[0][0]["superseded_by"], old[0]["superseded_by"] = "back", "newer"
    made.append(make_rows(records[4:5], 1))
    rows = old + made[0]
    assert ids(Plan(stream, records[2:], rows, ids=names)) == whole[1:]
    rows += made[1]
    assert ids(Plan(stream, records[4:], rows, ids=names)) == whole[2:]
    assert ids(Plan(stream, records[5:], rows + made[2], ids=names)) == [["a~2"]]


def test_a_stream_whose_data_ends_where_it_was_cut_off_ends_there() -> None:
    begun = replace(STREAM, n_records=4)
    assert not ids(Plan(begun, [], []))  # a new one, of data that is all known
    assert not ids(Plan(replace(begun, finished=True), [], make_rows(EDITS[:4])))
    assert list(Plan(begun, [], make_rows(EDITS[:4]), begun=True).batches()) == [([], replace(begun, finished=True))]


def test_a_stream_that_never_got_a_batch_ends_where_its_data_was_cut_back() -> None:
    settings = make_settings("model")
    done = replace(STREAM, data=asdict(settings.data), n_records=4, finished=True)
    plan = plan_stream(settings, EDITS[:4], [done, replace(done, number=1, finished=False)], make_rows(EDITS[:4]))
    assert list(plan.batches()) == [([], replace(done, number=1))]


def test_a_changed_record_is_noticed_where_it_was_passed_over() -> None:
    """Of a file the first records were made by another stream; what this one passed over is its data, too."""
    settings = make_settings("model")
    done = [replace(STREAM, data={"path": "first.jsonl"}, n_records=4, finished=True)]
    done.append(replace(done[0], number=1, data=asdict(settings.data), n_records=6))
    rows = make_rows(EDITS[:4]) + make_rows(EDITS[4:6], stream=1)
    assert not ids(plan_stream(settings, EDITS[:6], done, rows))
    mended = [replace(EDITS[0], target="mended"), *EDITS[1:6]]
    with pytest.raises(RunError, match="records came in, or were repaired, before the last one that was made"):
        plan_stream(settings, mended, done, rows)


def test_another_spelling_of_a_path_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings("model")
    settings.data.path = "./facts.jsonl"
    done = replace(STREAM, data=asdict(settings.data) | {"path": str(tmp_path / "facts.jsonl")}, finished=True)
    rows = make_rows(EDITS[:1], superseded_by="newer") + make_rows([NEWER], stream=1)
    plan = plan_stream(settings, EDITS[:2], [done, replace(done, number=1, data={"path": "newer.jsonl"})], rows)
    assert ids(plan) == [[EDITS[1].id]]


def test_a_number_that_was_an_id_already_is_one_of_its_own() -> None:
    """Records without ids get numbers, so one that is added with such a number for its id is another."""
    records = [replace(EDITS[i], id=name) for i, name in enumerate(("0", "record-1", "1"))]
    rows = make_rows([records[0], replace(records[1], id="1")])
    names = frozenset(record.id for record in records)
    assert ids(Plan(replace(STREAM, n_records=2), records[2:], rows, ids=names, begun=True)) == [["1~0"]]


def test_a_record_that_comes_in_before_others_is_told_from_one_that_is_gone() -> None:
    settings = make_settings("model")
    done = replace(STREAM, data=asdict(settings.data), n_records=4, finished=True)
    for records, said in (([NEWER, *EDITS[:4]], "came in, or were repaired"), (EDITS[1:9], "gone or changed")):
        with pytest.raises(RunError, match=rf"is not what it was when the run began: .*{said}"):
            plan_stream(settings, records, [done], make_rows(EDITS[:4]))


def test_what_is_said_of_contradictions_stays_until_a_stream_ends(tmp_path: Path) -> None:
    settings = make_settings("model")
    settings.on_contradiction = "reject"
    begun = replace(STREAM, data=asdict(settings.data), n_records=4)
    with pytest.raises(RunError, match=r"on_contradiction: .* unfinished run with supersede, found reject; finish it"):
        plan_stream(settings, EDITS, [begun], make_rows(EDITS[:4]))
    assert ids(plan_stream(settings, EDITS[:5], [replace(begun, finished=True)], make_rows(EDITS[:4]))) == [
        [EDITS[4].id]
    ]


def test_the_same_command_after_another_stream_brings_no_old_answer_back(tiny_model: Path, tmp_path: Path) -> None:
    records = [EDITS[0], NEWER, EDITS[1]]
    session = open_session(tiny_model, tmp_path / "run")
    settings = replace(make_settings(tiny_model), run_dir=str(tmp_path / "run"))
    settings.data.path = "edits.jsonl"
    follow(session, records, replace(STREAM, data=asdict(settings.data)))
    follow(session, EDITS[4:5], replace(STREAM, number=1))
    plan = plan_stream(settings, records, session.ledger.streams(), session.ledger.rows())
    assert not ids(plan)
    settings.data.batch_size = 2
    plan = plan_stream(settings, records, session.ledger.streams(), session.ledger.rows())
    assert ids(plan) == [[]]


def test_a_fact_that_comes_back_is_made_again() -> None:
    """As after another election: superseded before, or contradicted by a record ahead of it."""
    rows = make_rows(EDITS[:1], superseded_by="newer") + make_rows([NEWER], stream=1)
    back = replace(EDITS[0], id="back")
    third = replace(STREAM, number=2)
    assert ids(Plan(third, [back], rows)) == [["back"]]
    assert ids(Plan(third, [NEWER, EDITS[1]], rows)) == [[EDITS[1].id]]
    assert ids(Plan(third, [back, replace(NEWER, id="last")], rows)) == [[]]
    other = replace(NEWER, id="other", target="gardener")
    assert ids(Plan(third, [other, replace(NEWER, id="last")], rows)) == [["other", "last"]]
    assert ids(Plan(replace(third, on_contradiction="keep"), [other, NEWER], rows)) == [["other"]]
    assert ids(Plan(third, [back], make_rows(EDITS[:1], undone_at="2026-01-01"))) == [[]]
    kept = make_rows([EDITS[0], NEWER])
    assert ids(Plan(third, [back], kept)) == [["back"]]
    assert ids(Plan(third, [replace(NEWER, id="last")], kept)) == [[]]
    assert ids(Plan(replace(third, on_contradiction="keep"), [back], kept)) == [[]]
    assert ids(Plan(third, [back], rows, frozenset({0}))) == [[]]


@pytest.mark.parametrize(
    ("policy", "made", "winner", "without"),
    [
        ("supersede", [NEWER, EDITS[1]], NEWER, [EDITS[0], EDITS[1]]),
        ("reject", [EDITS[0], EDITS[1]], EDITS[0], [NEWER, EDITS[1]]),
        ("keep", [EDITS[0], NEWER, EDITS[1]], NEWER, [EDITS[0], EDITS[1]]),
    ],
)
def test_two_answers_in_one_batch(
    tiny_model: Path, tmp_path: Path, policy: OnContradiction, made: list[Edit], winner: Edit, without: list[Edit]
) -> None:
    """They are settled as in two batches, and the other one holds once the one that won is undone."""
    stream = replace(STREAM, on_contradiction=policy, batch_size=3)
    session = open_session(tiny_model, tmp_path / "run")
    follow(session, [EDITS[0], NEWER, EDITS[1], *EDITS[4:6]], stream)
    assert session.ledger.edits() == [*made, *EDITS[4:6]]
    assert open_session(tiny_model, tmp_path / "run").editor.edits == [*made, *EDITS[4:6]]
    before = state_of(session)
    session.undo([winner.id])
    never = open_session(tiny_model, tmp_path / "never")
    follow(never, [*without, *EDITS[4:6]], stream)
    assert session.ledger.edits() == [*without, *EDITS[4:6]]
    assert state_of(session) == state_of(never)
    session.redo([winner.id])
    assert state_of(session) == before


@pytest.mark.parametrize("policy", ["supersede", "reject"])
def test_undo_and_redo_beside_edits_that_were_left_out(
    tiny_model: Path, tmp_path: Path, policy: OnContradiction
) -> None:
    """Known records, answers left out, and a batch of nothing else: all of it comes back to the bit."""
    session = open_session(tiny_model, tmp_path / "run")
    follow(session, EDITS[:3], replace(STREAM, batch_size=2))
    again = [replace(edit, id=f"again-{edit.id}", target="minister") for edit in EDITS[:2]]
    records = [EDITS[0], EDITS[3], *again, *EDITS[4:8], replace(again[0], id="third")]
    stream = replace(STREAM, number=1, batch_size=2, on_contradiction=policy)
    follow(session, records, stream)
    before, rows = state_of(session), read_ledger(tmp_path / "run")
    for gone in (EDITS[2], EDITS[3], EDITS[7], EDITS[0]):
        session.undo([gone.id])
        session.redo([gone.id])
        assert state_of(session) == before
        now = read_ledger(tmp_path / "run")
        assert [(one["id"], one["batch"], one["superseded_by"]) for one in now] == [
            (one["id"], one["batch"], one["superseded_by"]) for one in rows
        ]


def fit(settings: RunSettings) -> list[str]:
    folder = fit_run(settings)
    return [row["id"] for row in read_ledger(folder.path)]


def test_a_finished_run_notices_what_is_new(tiny_model: Path, tmp_path: Path) -> None:
    """Data that has grown is taken up, however many edits came from elsewhere since."""
    settings = make_settings(tiny_model, evaluation={"generate": False, "retention_points": 0})
    settings.run_dir, settings.data.path = str(tmp_path / "run"), str(tmp_path / "edits.jsonl")
    Path(settings.data.path).write_text("".join(edit.to_json() + "\n" for edit in EDITS[:4]))
    fit(settings)
    session = Session(settings, RunFolder(settings.run_dir), load_tiny(tiny_model))
    follow(session, EDITS[5:11], replace(STREAM, number=1))
    fit(settings)
    Path(settings.data.path).write_text("".join(edit.to_json() + "\n" for edit in EDITS[:5]))
    assert fit(settings) == [edit.id for edit in (*EDITS[:4], *EDITS[5:11], EDITS[4])]
    for place in (1, 4):  # of what the first command made, and of what the last one did
        changed = [replace(edit, target="gardener") if i == place else edit for i, edit in enumerate(EDITS[:5])]
        Path(settings.data.path).write_text("".join(edit.to_json() + "\n" for edit in changed))
        with pytest.raises(RunError, match=r"data.path: .*edits.jsonl is not what it was when the run began"):
            fit(settings)


def test_a_finished_run_with_a_record_too_long_is_not_scored_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tiny_model, evaluation={"generate": False, "retention_points": 0})
    settings.run_dir, settings.data.path = str(tmp_path / "run"), str(tmp_path / "edits.jsonl")
    settings.data.on_error = "skip"
    long = replace(EDITS[4], prompt="the " * 2000 + EDITS[4].prompt)
    Path(settings.data.path).write_text("".join(edit.to_json() + "\n" for edit in [long, *EDITS[:4]]))
    with pytest.warns(UserWarning, match="1 of 5 records skipped"):
        made = fit(settings)
    assert len(made) == 4
    monkeypatch.setattr(run, "score_run", lambda *_: pytest.fail("scored again"))
    with pytest.warns(UserWarning, match="1 of 5 records skipped"):
        assert fit(settings) == made


def test_figures_go_before_other_settings_of_scoring_come(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is killed while it scores a finished run anew does not leave the old figures as its own."""
    settings = make_settings(tiny_model, evaluation={"generate": False, "retention_points": 0})
    settings.run_dir, settings.data.path = str(tmp_path / "run"), str(tmp_path / "edits.jsonl")
    Path(settings.data.path).write_text("".join(edit.to_json() + "\n" for edit in EDITS[:4]))
    fit(settings)
    folder, peaks = RunFolder(settings.run_dir), RunFolder(settings.run_dir).read_peaks()
    settings.evaluation.generate = True
    with monkeypatch.context() as patched:
        patched.setattr(run, "score_run", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            fit(settings)
    assert not folder.repeats(settings)
    fit(settings)
    assert folder.read_metrics()["final"]["generated_exact_match"] is not None
    settings.evaluation.batch_size += 1
    before = folder.read_peaks()
    fit(settings)
    assert before.keys() == peaks.keys()
    assert folder.read_peaks() == before  # which this process did not measure


def test_edits_of_one_subject_are_told_apart_whenever_they_came(tiny_model: Path, tmp_path: Path) -> None:
    """A later edit of an old subject changes the wordings of the old one, in a resumed run and after an undo, too."""
    later = [
        replace(edit, id=f"founder-{edit.subject}", prompt=f"The founder of {edit.subject} is", target="minister")
        for edit in EDITS[:3]
    ]
    edits, sections = [*EDITS[:8], *later, EDITS[8]], {"training": {"n_variants": 4}}
    session = write(open_session(tiny_model, tmp_path / "run", **sections), edits[:8], finish=False)
    before = [list(one.variants) for one in session.editor.past]
    session.edit(edits[8:], STREAM, point=True)
    changed = [
        len(old) != len(now.variants) or any(map(operator.is_not, old, now.variants))
        for old, now in zip(before, session.editor.past, strict=False)
    ]
    assert changed == [True] * 3 + [False] * 5
    named = {tokens for edit in EDITS[:3] for tokens in session.base.tokenizer(f"{edit.subject}").input_ids}
    for one in [*session.editor.past[:3], *session.editor.past[8:11]]:
        assert one.variants
        assert not any(set(text.encoded.prompt.tolist()) <= named for text in one.variants)
    write(open_session(tiny_model, tmp_path / "cut", **sections), edits[:4], finish=False)
    for start in (4, 8):
        open_session(tiny_model, tmp_path / "cut", **sections).edit(edits[start : start + 4], STREAM, point=True)
    resumed = open_session(tiny_model, tmp_path / "cut", **sections)
    assert state_of(resumed) == state_of(session)
    resumed.undo([later[1].id, EDITS[0].id])
    kept = [edit for edit in edits if edit.id not in (later[1].id, EDITS[0].id)]
    assert state_of(resumed) == state_of(
        write(open_session(tiny_model, tmp_path / "never", **sections), kept, finish=False)
    )


def test_wordings_that_stay_are_not_run_again(tiny_model: Path, tmp_path: Path) -> None:
    session = write(open_session(tiny_model, tmp_path / "run", training={"n_variants": 4}), EDITS[:4], finish=False)
    past, edits = session.editor.past, session.editor.edits
    assert all(map(operator.is_, session.editor.prepare.renew(past, edits, edits), past))
    rival = replace(EDITS[1], id="founder", prompt=f"The founder of {EDITS[1].subject} is", target="minister")
    renewed = session.editor.prepare.renew(past, edits, [*edits, rival])
    assert [one is old for one, old in zip(renewed, past, strict=True)] == [True, False, True, True]
    assert renewed[1].text is past[1].text
    assert renewed[1].subspace == past[1].subspace == 0
