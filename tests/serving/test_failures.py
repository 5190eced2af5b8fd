"""What the server says when something of its own fails, and what an editing process in disorder comes to."""

import asyncio
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException
from prometheus_client import generate_latest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from case_lightning.editing.run_folder import RunFolder
from case_lightning.errors import CaseError, ConfigError, DataError, RunError, UnknownEditError
from case_lightning.serving import edit_desk
from case_lightning.serving.app import create_app
from case_lightning.serving.edit_desk import Allowance, EditDesk
from case_lightning.serving.editor_process import Change
from case_lightning.serving.leaving import wait_unless_gone
from case_lightning.serving.metrics import Metrics
from case_lightning.serving.middleware import RequestLog
from case_lightning.serving.refusals import BusyError, EditError, LimitError, find_status, word_for_client
from case_lightning.serving.settings import Limits, ServeSettings


def pretend_to_work(connection: Connection, path: str) -> None:
    """In the editing process's place: sleeps, ends, or says that there is a new state."""
    connection.send(Change([], "first", 0))
    while True:
        name, arguments = connection.recv()
        if name == "end":
            return
        time.sleep(arguments[0] if name == "sleep" else 0)
        connection.send(Change([{"status": name}], name if name == "new" else "first", 0))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[EditDesk]:
    monkeypatch.setattr(edit_desk, "work", pretend_to_work)
    published: list[Path] = []

    def publish(path: Path, n_edits: int) -> None:
        published.append(path)
        if len(published) == 1:
            raise MemoryError("no room")

    made = EditDesk("run", publish, Limits(max_waiting_edits=2, max_edit_seconds=0))
    made.wait_until_open()
    yield made
    made.close()


def test_changes_wait_within_bounds_and_a_slow_one_is_seen(desk: EditDesk) -> None:
    assert not desk.stuck
    slow, waiting = desk.submit("sleep", 1.0), desk.submit("sleep", 0)
    with pytest.raises(BusyError, match="2 changes wait already"):
        desk.submit("sleep", 0)
    until = time.monotonic() + 60
    while not desk.stuck:
        assert time.monotonic() < until
    assert waiting.cancel()
    assert not slow.cancel()
    assert slow.result(60).results == [{"status": "sleep"}]
    assert desk.submit("sleep", 0).result(60)
    assert not desk.stuck


def test_who_is_sent_away_for_want_of_room_keeps_the_allowance(desk: EditDesk) -> None:
    settings, engine = ServeSettings("run"), SimpleNamespace(state=SimpleNamespace(fingerprint="case-0"))
    served: Any = SimpleNamespace(
        settings=settings, engine=engine, desk=desk, allowance=Allowance(3, clock=lambda: 0.0), metrics=Metrics()
    )
    client = TestClient(create_app(served), base_url="http://localhost")
    asked = {"ids": ["a", "b", "c"]}
    commands = desk.submit("sleep", 1.0), desk.submit("sleep", 0)
    assert [client.post("/v1/edits/undo", json=asked).status_code for _ in range(3)] == [503] * 3
    for command in commands:
        command.result(60)
    until = time.monotonic() + 60
    while (answer := client.post("/v1/edits/undo", json=asked)).status_code == 503:
        assert time.monotonic() < until
    assert answer.status_code == 200, answer.text
    assert client.post("/v1/edits/undo", json=asked).status_code == 429


def test_a_change_that_cannot_be_shown_is_shown_with_the_next(desk: EditDesk) -> None:
    with pytest.raises(RunError, match=r"is made, but not answered from yet \(MemoryError: no room\)"):
        desk.submit("new").result(60)
    assert desk.submit("new").result(60)
    assert desk.alive


def test_an_editing_process_that_is_gone(desk: EditDesk) -> None:
    with pytest.raises(RunError, match="the editing process is gone"):
        desk.submit("end").result(60)
    assert not desk.alive


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("x"), 400),
        (ConfigError("the fit diverged"), 400),
        (UnknownEditError("x"), 400),
        (LimitError("x", 1), 429),
        (EditError("x"), 500),
        (BusyError("x"), 503),
        (RunError("cannot be written"), 503),
    ],
)
def test_whose_mistake_it_is(error: CaseError, status: int) -> None:
    assert find_status(error)[0] == status


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConfigError("the fit of edit batch 3 diverged, its loss went from 1 to 9; it is taken back; lower it"),
            "the fit of edit batch 3 diverged, its loss went from 1 to 9; nothing is changed; send fewer edits in a "
            "request, or ask whoever runs the server for a run with a lower training.learning_rate",
        ),
        (
            RunFolder("run").refuse(OSError(28, "No space left")),
            "run cannot be written (No space left); nothing is changed; whoever runs the server has to see to it",
        ),
        (
            UnknownEditError("'x' is not the id of an edit of run; `history list` shows them"),
            "'x' is not the id of an edit of run; GET /v1/edits lists them",
        ),
        (UnknownEditError("edit 'x' is undone already, since 9"), "edit 'x' is undone already, since 9"),
        (DataError("edits[0].id: 'x' is taken; give none"), "edits[0].id: 'x' is taken; give none"),
    ],
)
def test_a_client_is_told_what_a_client_can_do(error: CaseError, said: str) -> None:
    worded = word_for_client(error)
    assert (type(worded), str(worded)) == (type(error), said)


class Gone:
    """A request whose client has left."""

    async def receive(self) -> dict[str, str]:
        return {"type": "http.disconnect"}


def test_work_is_given_up_once_its_client_has_gone() -> None:
    async def check() -> None:
        endless = asyncio.ensure_future(asyncio.sleep(600))
        with pytest.raises(HTTPException) as caught:
            await asyncio.wait_for(wait_unless_gone(Gone(), endless, endless.cancel), 60)  # type: ignore[arg-type]
        assert caught.value.status_code == 499

    asyncio.run(check())


def test_a_failure_that_nobody_has_foreseen(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("what was asked")

    metrics = Metrics()
    client = TestClient(RequestLog(fail, metrics))
    answer = client.request("MADEUP", "/")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert 'method="other",route="other",status="500"' in generate_latest(metrics.registry).decode()
    assert "what was asked" not in answer.text


def test_what_is_cut_off_by_the_end_of_the_server_gets_an_answer() -> None:
    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        asyncio.current_task().cancel()  # type: ignore[union-attr]  # as uvicorn does once it waits no longer
        await asyncio.sleep(600)

    answer = TestClient(RequestLog(wait, Metrics())).post("/v1/edits")
    assert answer.status_code == 503
    assert "done whole or not at all" in answer.json()["error"]["message"]
