"""The engine: each answer is what the model says alone, whatever is decoded beside it and however it changes."""

import gc
import queue
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.encoding import encode_prompt
from case_lightning.editing.loading import LoadedRun, load_run
from case_lightning.editing.scoring import Scorer
from case_lightning.serving.cohort import Cohort
from case_lightning.serving.engine import Engine, Piece, Question
from case_lightning.serving.refusals import BusyError
from case_lightning.serving.sampling import Sampling
from case_lightning.serving.state import State, load_state
from case_lightning.subspace import UNEDITED
from tests.editing.tiny_run import UNRELATED, make_edits

LENGTH = 12
PROMPTS = [edit.prompt for edit in make_edits(12)] + [
    UNRELATED,
    "The game",
    "Where in the old city was the minister of",
]


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> LoadedRun:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def state(run: LoadedRun) -> State:
    return load_state(run.model, run.folder.adapter, len(run.edits))


@pytest.fixture
def engine(run: LoadedRun, state: State) -> Iterator[Engine]:
    made = Engine(run.model, run.base.tokenizer, state, max_rows=5, max_waiting=40)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(run: LoadedRun) -> dict[tuple[str, bool], str]:
    """What the model says to each prompt, one at a time, by transformers' own `generate`."""
    reloaded = load_run(run.folder.path)  # an engine's states take the adapter's place
    scorer = Scorer(RoutedModel(reloaded.base, reloaded.model), 1)
    return {(one, edited): scorer.generate([one], LENGTH, edited)[0] for one in PROMPTS for edited in (True, False)}


def ask(run: LoadedRun, prompt: str, edited: bool = True, **more: object) -> Question:
    return Question(encode_prompt(run.base.tokenizer, prompt), LENGTH, edited, strip=True, **more)  # type: ignore[arg-type]


def collect(pieces: "queue.Queue[Piece]") -> tuple[str, list[Piece]]:
    found = []
    while not (found and found[-1].finish):
        found.append(pieces.get(timeout=60))
    return "".join(piece.text for piece in found).strip(), found


def test_routes_are_those_of_the_run(run: LoadedRun, state: State) -> None:
    model = RoutedModel(run.base, run.model)
    prompts = [encode_prompt(run.base.tokenizer, one) for one in PROMPTS]
    routes = [state.route(prompt)[0] for prompt in prompts]
    assert routes == model.route(prompts).tolist()
    assert UNEDITED in routes
    assert len(set(routes)) > 1


def test_answers_that_come_and_go_are_those_of_each_prompt_alone(
    run: LoadedRun, engine: Engine, alone: dict[tuple[str, bool], str]
) -> None:
    sizes: set[int] = set()
    engine.on_step = lambda _: sizes.add(engine.n_rows)
    asked = [(prompt, edited) for prompt in PROMPTS for edited in (True, False)]
    queues: list[queue.Queue[Piece]] = [queue.Queue() for _ in asked]
    for (prompt, edited), pieces in zip(asked, queues, strict=True):
        engine.submit(ask(run, prompt, edited), pieces.put)
    found = {one: collect(pieces)[0] for one, pieces in zip(asked, queues, strict=True)}
    assert found == alone
    assert max(sizes) == 5
    assert any(alone[prompt, True] != alone[prompt, False] for prompt in PROMPTS)


def test_an_answer_under_way_keeps_its_state(
    run: LoadedRun, state: State, engine: Engine, alone: dict[tuple[str, bool], str]
) -> None:
    empty_run = next(path for path in sorted(run.folder.snapshots.iterdir()) if path.name.startswith("000000"))
    empty = load_state(run.model, empty_run, 0, state)
    prompt = next(one for one in PROMPTS if len(alone[one, True].split()) > 3 and alone[one, True] != alone[one, False])
    old: queue.Queue[Piece] = queue.Queue()
    new: queue.Queue[Piece] = queue.Queue()
    published: list[bool] = []

    def deliver(piece: Piece) -> None:
        if old.empty() and not published:  # from the engine's own thread, in the middle of the answer
            published.append(True)
            engine.publish(empty)
            engine.submit(ask(run, prompt), new.put)
        old.put(piece)

    engine.submit(ask(run, prompt), deliver)
    (old_text, new_text), pieces = zip(*[collect(one) for one in (old, new)], strict=True)
    assert (old_text, new_text) == (alone[prompt, True], alone[prompt, False])
    assert [{piece.state for piece in one} for one in pieces] == [{state.fingerprint}, {empty.fingerprint}]
    assert pieces[1][0].state.endswith("-0")


def test_a_cancelled_answer_makes_room(run: LoadedRun, engine: Engine) -> None:
    engine.max_rows = 1
    first: queue.Queue[Piece] = queue.Queue()
    ticket = engine.submit(Question(encode_prompt(run.base.tokenizer, UNRELATED), 10_000, False), first.put)
    first.get(timeout=60)
    second: queue.Queue[Piece] = queue.Queue()
    engine.submit(ask(run, UNRELATED), second.put)
    ticket.cancel()
    collect(second)
    assert len(ticket.tokens) < 10_000
    assert engine.n_waiting == 0


def test_too_many_questions_are_refused(run: LoadedRun, engine: Engine) -> None:
    engine.max_waiting = 0
    with pytest.raises(BusyError, match="0 questions wait already; ask again in a while"):
        engine.submit(ask(run, UNRELATED), lambda _: None)


def test_those_that_have_left_keep_no_place(run: LoadedRun, engine: Engine) -> None:
    engine.max_waiting = 1
    with engine._changed:  # the engine takes none up meanwhile
        engine.submit(ask(run, UNRELATED), lambda _: None).cancel()
        engine.submit(ask(run, UNRELATED), lambda _: None)
        with pytest.raises(BusyError):
            engine.submit(ask(run, UNRELATED), lambda _: None)


def test_an_idle_engine_lets_go_of_an_older_state(run: LoadedRun, state: State, engine: Engine) -> None:
    pieces: queue.Queue[Piece] = queue.Queue()
    older = load_state(run.model, run.folder.adapter, len(run.edits), state)
    watched = weakref.ref(older.adapter)
    engine.publish(older)
    engine.submit(ask(run, UNRELATED), pieces.put)
    collect(pieces)
    engine.publish(state)
    del older
    until = time.monotonic() + 60
    while gc.collect() >= 0 and watched():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_failing_answer_takes_no_other_with_it(run: LoadedRun, engine: Engine) -> None:
    broken, fine = queue.Queue(), queue.Queue()  # type: ignore[var-annotated]
    bad = encode_prompt(run.base.tokenizer, UNRELATED) + 10**6  # no such tokens
    with engine._changed:  # both in the same step
        engine.submit(Question(bad, LENGTH, False), broken.put)
        engine.submit(ask(run, UNRELATED), fine.put)
    assert collect(broken)[1][-1].finish == "error"
    assert collect(fine)[1][-1].finish in ("stop", "length")
    assert engine.alive


def test_a_failed_answer_names_what_it_began_with(
    run: LoadedRun, engine: Engine, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cohort: Cohort, tokens: list[int]) -> None:
        raise RuntimeError("no memory")

    pieces: queue.Queue[Piece] = queue.Queue()
    monkeypatch.setattr(Cohort, "step", fail)
    with engine._changed:
        ticket = engine.submit(ask(run, PROMPTS[0]), pieces.put)
    found = collect(pieces)[1]
    assert ticket.route[0] != UNEDITED
    assert (found[-1].finish, found[-1].state, found[-1].in_scope) == ("error", state.fingerprint, True)


def test_the_same_seed_gives_the_same_answer(run: LoadedRun, engine: Engine) -> None:
    answers = []
    for seed in (1, 1, 2, 3):
        pieces: queue.Queue[Piece] = queue.Queue()
        engine.submit(ask(run, UNRELATED, sampling=Sampling(2.0, 1.0, seed)), pieces.put)
        answers.append(collect(pieces)[0])
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1
