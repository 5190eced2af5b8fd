"""Who may do what, and how much of it."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from case_lightning import serve
from case_lightning.command_line import run_verb
from case_lightning.errors import ConfigError
from case_lightning.serving.edit_desk import Allowance
from case_lightning.serving.refusals import LimitError
from case_lightning.serving.settings import ServeSettings, Tokens, check_access, read_tokens
from tests.editing.tiny_run import UNRELATED
from tests.serving.client import EDITED, connect, get, post
from tests.serving.conftest import RunningServer, start_server

Starter = Callable[..., AbstractContextManager[RunningServer]]
READ, EDIT = "read-token-1", "edit-token-1"
FACT = {"edits": [{"prompt": "The game is", "target": "old"}]}
QUESTION = {"model": EDITED, "prompt": UNRELATED, "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    log = tmp_path_factory.mktemp("guarded") / "log"
    limits = {"max_body_bytes": 5000, "max_edits": 3, "edits_per_minute": 4, "max_prompt_tokens": 20, "max_rows": 1}
    words = [word for name, value in limits.items() for word in (f"--limits.{name}", str(value))]
    words += ["--limits.max_waiting", "1", "--limits.max_tokens", "40"]
    with start_server(tiny_run, log, *words, CASE_READ_TOKEN=READ, CASE_EDIT_TOKEN=EDIT) as running:
        yield running


@pytest.mark.parametrize(
    ("token", "asking", "listing", "editing"),
    [
        (None, 401, 401, 401),
        ("wrong-token", 401, 401, 401),
        (READ, 200, 200, 403),
        (EDIT, 200, 200, 200),
    ],
)
def test_tokens(guarded: RunningServer, token: str | None, asking: int, listing: int, editing: int) -> None:
    address = guarded.address
    assert post(address, "/v1/completions", QUESTION, token)[0] == asking
    assert [get(address, path, token)[0] for path in ("/v1/edits", "/v1/models", "/metrics")] == [listing] * 3
    assert post(address, "/v1/edits/assess", FACT, token)[0] == editing
    for path, body in (("/v1/edits", FACT), ("/v1/edits/undo", {"ids": ["x"]}), ("/v1/edits/redo", {"ids": ["x"]})):
        if editing != 200:
            assert post(address, path, body, token)[0] == editing
    assert get(address, "/health")[0] == 200
    assert token is None or token not in guarded.log.read_text()


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/edits", {"edits": FACT["edits"] * 4}, 400, "at most 3 edits in one request, found 4"),
        ("/v1/edits", {"edits": []}, 400, "edits: "),
        ("/v1/edits", {"edits": [{"prompt": "a", "target": "b", "rephrases": ["\ud800"]}]}, 400, "surrogate pair"),
        ("/v1/edits", {"edits": [{"prompt": "a", "target": " "}]}, 400, "edits[0].target: expected text"),
        ("/v1/edits", {"edits": [{"prompt": "a", "target": "b", "hint": 1}]}, 400, "edits.0.hint: Extra inputs"),
        ("/v1/edits", FACT | {"on_contradiction": "x"}, 400, "on_contradiction: "),
        ("/v1/completions", QUESTION | {"prompt": "the " * 21}, 400, "and at most 20 tokens"),
        ("/v1/completions", QUESTION | {"prompt": "the " * 2000}, 413, "at most 5000 bytes"),
        ("/v1/completions", b"{", 400, "JSON"),
        ("/v1/none", {}, 404, "Not Found"),
    ],
)
def test_limits(guarded: RunningServer, path: str, body: object, status: int, said: str) -> None:
    found, answer = post(guarded.address, path, body, EDIT)
    assert (found, said in answer["error"]["message"]) == (status, True), answer


def test_a_body_of_unknown_length_is_bounded(guarded: RunningServer) -> None:
    host, port = guarded.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            connection.sendall(b"7d0\r\n" + b"x" * 2000 + b"\r\n")
        assert b" 413 " in connection.recv(1000).splitlines()[0]


def test_a_client_that_leaves_makes_room(guarded: RunningServer) -> None:
    """One row, one place to wait: where those that left went on, the third would be refused."""
    client = connect(guarded.address, READ)
    for _ in range(3):
        stream = client.completions.create(**QUESTION | {"max_tokens": 40, "stream": True})  # type: ignore[call-overload]
        next(iter(stream))
        stream.close()
    until = time.monotonic() + 60
    while "case_rows 0.0" not in get(guarded.address, "/metrics", READ)[1]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert post(guarded.address, "/v1/completions", QUESTION, READ)[0] == 200


def test_edits_are_limited_by_the_minute() -> None:
    now = [0.0]
    allowance = Allowance(60, clock=lambda: now[0])
    allowance.take(50)
    with pytest.raises(LimitError, match="60 edits a minute are taken; come again in 10 s") as caught:
        allowance.take(20)
    assert caught.value.seconds == 10
    now[0] = 10
    allowance.take(20)
    now[0] = 10_000
    allowance.take(60)
    with pytest.raises(LimitError):
        allowance.take(1)


def test_more_facts_than_a_minute_takes_are_refused_for_good(starter: Starter) -> None:
    with starter("--limits.edits_per_minute", "2") as running:
        status, answer = post(running.address, "/v1/edits/assess", {"edits": FACT["edits"] * 3})
    assert (status, "at most 2 edits in one request" in answer["error"]["message"]) == (400, True)


def test_an_address_with_colons_is_answered_at(starter: Starter) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with starter("--host", "::1", "--edits", "false") as running:
        assert get(running.address, "/v1/models")[0] == 200


def test_the_server_says_when_to_come_again(guarded: RunningServer) -> None:
    for _ in range(4):
        status, answer = post(guarded.address, "/v1/edits/assess", {"edits": FACT["edits"] * 3}, EDIT)
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "CASE_READ_TOKEN and CASE_EDIT_TOKEN is not set"),  # noqa: S104
        ({"host": "::", "tokens": Tokens(read=READ)}, "CASE_EDIT_TOKEN is not set"),
        ({"host": "0.0.0.0", "edits": False}, "CASE_READ_TOKEN is not set"),  # noqa: S104
        ({"tokens": Tokens(READ, READ)}, "expected another token"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_access(ServeSettings("run", **settings))  # type: ignore[arg-type]


def test_settings_that_are_taken() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_access(ServeSettings("run", host))
    check_access(ServeSettings("run", "0.0.0.0", edits=False, tokens=Tokens(READ)))  # noqa: S104
    check_access(ServeSettings("run", "0.0.0.0", tokens=Tokens(READ, EDIT)))  # noqa: S104


def test_tokens_are_read_from_the_environment_or_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{EDIT}\n")
    tokens = read_tokens({"CASE_READ_TOKEN": READ, "CASE_EDIT_TOKEN_FILE": str(tmp_path / "token")})
    assert (tokens.read, tokens.edit) == (READ, EDIT)
    assert READ not in repr(tokens)
    for bad in ("short", "with a space in it", "ümlaut-token"):
        with pytest.raises(ConfigError, match="at least 8 printable characters without spaces"):
            read_tokens({"CASE_READ_TOKEN": bad})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tokens({"CASE_READ_TOKEN_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--run", "none"], "none holds no readable run"),
        ([], "the following arguments are required: run"),
        (["--run", "none", "--port", "70000"], "port: "),
        (["--run", "none", "--limits.max_rows", "0"], "limits.max_rows: "),
        (["--run", "none", "--prot", "1"], "unknown setting 'prot'; did you mean port?"),
        (["--run", "none", "--host", "192.0.2.1"], "CASE_READ_TOKEN and CASE_EDIT_TOKEN is not set"),
    ],
)
def test_mistakes_end_with_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(lambda: serve.main(words)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run_verb(lambda: serve.main(["--run", "none", "--port", port])) == 2
    assert f"--port: 127.0.0.1:{port} cannot be listened at" in capsys.readouterr().err


def test_a_template_that_there_is_not(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run", str(tiny_run), "--port", "0", "--edits", "false", "--chat", "template"]
    assert run_verb(lambda: serve.main(words)) == 2
    assert "has no chat template; give question" in capsys.readouterr().err.splitlines()[-1]
