"""The real server, asked with the official client: answers, edits that go in meanwhile, and its end."""

import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import openai
import pytest
import yaml

from case_lightning import fit
from case_lightning.command_line import run_verb
from case_lightning.editing.run import open_scorer
from tests.editing.tiny_run import UNRELATED, make_edits, read_ledger
from tests.serving.client import BASE, EDITED, connect, get, post, read_events, send
from tests.serving.conftest import RunningServer, start_server

EDITS = make_edits(12)
PROMPT = EDITS[0].prompt
Starter = Callable[..., AbstractContextManager[RunningServer]]


def chat(client: openai.OpenAI, prompt: str, model: str = EDITED, n: int = 8) -> tuple[str, str]:
    """The answer and the state that it comes from."""
    turns = [{"role": "user", "content": prompt}]
    answer = client.chat.completions.create(model=model, messages=turns, max_tokens=n)  # type: ignore[arg-type]
    return answer.choices[0].message.content or "", answer.system_fingerprint or ""


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return connect(server.address)


def test_answers_are_those_of_the_run(server: RunningServer, client: openai.OpenAI) -> None:
    scorer = open_scorer(str(server.run))
    for prompt in (PROMPT, EDITS[3].prompt, EDITS[11].prompt, UNRELATED):
        for model, edited in ((EDITED, True), (BASE, False)):
            text, state = chat(client, prompt, model)
            assert text.strip() == scorer.generate([prompt], 8, edited)[0]
            assert state.startswith("case-" if edited else "base-")
    assert chat(client, PROMPT) != chat(client, PROMPT, BASE)


def test_a_stream_brings_the_same_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=EDITED, prompt=UNRELATED, max_tokens=8)
    options = {"include_usage": True}
    chunks = list(
        client.completions.create(
            model=EDITED,
            prompt=UNRELATED,
            max_tokens=8,
            stream=True,
            stream_options=options,  # type: ignore[arg-type]
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len(chunks) > 3


def test_a_streamed_chat(client: openai.OpenAI) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
    ]
    stream = client.chat.completions.create(model=EDITED, messages=turns, stream=True, max_tokens=8)  # type: ignore[call-overload]
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(delta.content for delta in deltas) == chat(client, PROMPT)[0]
    assert deltas[0].role == "assistant"


def test_a_stop_text_ends_the_answer(client: openai.OpenAI) -> None:
    words = client.completions.create(model=BASE, prompt=UNRELATED, max_tokens=8).choices[0].text.split()
    stopped = client.completions.create(model=BASE, prompt=UNRELATED, max_tokens=8, stop=words[2]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text.split() == words[: words.index(words[2])]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [EDITED, BASE]
    assert client.models.retrieve(EDITED).id == EDITED


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"model": "none"}, 404, "model: expected model+edits or model, found 'none'"),
        ({"prompt": " "}, 400, "prompt: expected text that is not blank"),
        ({"max_tokens": 257}, 400, "max_tokens: expected at most 256, found 257"),
        ({"max_tokens": 60}, 400, "and at most 4 tokens"),
        ({"max_tokens": 100}, 400, "max_tokens: expected less than the 64 of the context, found 100"),
        ({"max_tokens": True}, 400, "max_tokens: Input should be a valid integer"),
        ({"stop": ["a"] * 5}, 400, "stop: List should have at most 4 items"),
        ({"temperature": -1}, 400, "temperature: "),
        ({"n": 2}, 400, "n: "),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"logprobs": 5}, 400, "logprobs: "),
        ({"echo": True}, 400, "echo: "),
        ({"best_of": 2}, 400, "best_of: "),
        ({"suffix": "a"}, 400, "suffix: "),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty: "),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias: "),
        ({"extra_body": {"grammar": 1}}, 400, "grammar: Extra inputs are not permitted"),
        ({"stop": "a" * 257}, 400, "stop"),
        ({"stop": ["a"] * 5}, 400, "stop"),
    ],
)
def test_mistakes_are_refused(client: openai.OpenAI, asked: dict[str, object], status: int, said: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**{"model": EDITED, "prompt": UNRELATED} | asked)  # type: ignore[call-overload]
    assert caught.value.status_code == status
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/json", b"{", "the body: broken JSON at character 1"),
        ("application/json", b"[]", "the body: expected a JSON object, sent as Content-Type: application/json"),
        ("text/plain", b"{}", "the body: expected a JSON object, sent as Content-Type: application/json"),
    ],
)
def test_a_body_that_is_no_object_is_told_so(server: RunningServer, kind: str, body: bytes, said: str) -> None:
    request = urllib.request.Request(f"{server.address}/v1/completions", body, {"Content-Type": kind})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=120)  # noqa: S310
    assert caught.value.code == 400
    assert json.loads(caught.value.read())["error"]["message"].startswith(said)


NEUTRAL = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}}
NEUTRAL_TEXT = NEUTRAL | {"echo": False, "best_of": 1, "suffix": "", "logprobs": None}
NEUTRAL_CHAT = NEUTRAL | {
    "logprobs": False,
    "top_logprobs": None,
    "metadata": {"of": "us"},
    "store": False,
    "service_tier": "auto",
    "response_format": {"type": "text"},
    "tools": [],
    "parallel_tool_calls": True,
    "function_call": None,
    "reasoning_effort": None,
}


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    plain = {"model": EDITED, "max_tokens": 4}
    texts = [
        client.completions.create(prompt=prompt, **more | plain).choices[0].text  # type: ignore[call-overload]
        for prompt, more in ((UNRELATED, {}), (UNRELATED, NEUTRAL_TEXT), ([UNRELATED], {}))
    ]
    assert len(set(texts)) == 1
    asked: list[object] = [{"role": "user", "content": PROMPT}]
    answer = client.chat.completions.create(messages=asked, **NEUTRAL_CHAT | plain).choices[0].message  # type: ignore[call-overload]
    asked += [answer, {"role": "user", "content": PROMPT}]
    again = client.chat.completions.create(messages=asked, **plain).choices[0].message  # type: ignore[call-overload]
    assert again.content == answer.content


@pytest.mark.parametrize(
    "asked",
    [
        {"tools": [{}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"top_logprobs": 2},
        {"reasoning_effort": "high"},
        {"store": True},
        {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
        {"messages": [{"role": "user", "content": "\ud800 x"}, {"role": "user", "content": "x"}]},
    ],
    ids=str,
)
def test_what_a_chat_is_not_given_is_refused(server: RunningServer, asked: dict[str, object]) -> None:
    body = {"model": EDITED, "messages": [{"role": "user", "content": PROMPT}]} | asked
    assert post(server.address, "/v1/chat/completions", body)[0] == 400


def test_half_a_character_is_refused(server: RunningServer) -> None:
    for path in ("completions", "chat/completions"):
        body = {"model": EDITED, "prompt": "\ud800 x"}
        if path.startswith("chat"):
            body = {"model": EDITED, "messages": [{"role": "user", "content": "\ud800 x"}]}  # type: ignore[dict-item]
        status, answer = post(server.address, f"/v1/{path}", body)
        assert (status, "half of a surrogate pair" in answer["error"]["message"]) == (400, True)


def test_a_fact_is_assessed_added_listed_and_undone(starter: Starter) -> None:
    newer = {"prompt": PROMPT, "target": "minister", "subject": EDITS[0].subject}
    with starter() as running:
        client, address = connect(running.address), running.address
        answer, before = chat(client, PROMPT)
        assert post(address, "/v1/edits/assess", {"edits": [newer]})[1]["data"][0]["contradicts"] == [EDITS[0].id]
        assert chat(client, PROMPT) == (answer, before)
        status, added = post(address, "/v1/edits", {"edits": [newer]})
        assert (status, added["data"][0]["status"]) == (200, "added")
        assert added["data"][0]["supersedes"] == [EDITS[0].id]
        assert chat(client, PROMPT)[1] == added["state"] != before
        listed = get(address, "/v1/edits?limit=1")[1]
        assert (listed["total"], listed["data"][0]["id"]) == (9, added["data"][0]["id"])
        assert post(address, "/v1/edits", {"edits": [newer]})[1]["data"][0]["status"] == "in ledger"
        assert 'case_edits_total{action="add"} 1.0' in get(address, "/metrics")[1]
        rejected = {"edits": [newer | {"target": "game"}], "on_contradiction": "reject"}
        assert post(address, "/v1/edits", rejected)[1]["data"][0]["status"] == "rejected"
        ids = {"ids": [added["data"][0]["id"]]}
        assert post(address, "/v1/edits/undo", ids)[1]["state"] == before
        assert chat(client, PROMPT) == (answer, before)
        assert post(address, "/v1/edits/redo", ids)[1]["state"] == added["state"]
        status, refused = post(address, "/v1/edits/undo", {"ids": ["none"]})
        assert (status, "is not the id of an edit" in refused["error"]["message"]) == (400, True)
        assert refused["error"]["message"].endswith("; GET /v1/edits lists them")
        assert running.end() == 0
    assert len(read_ledger(running.run)) == 9


def test_no_answer_mixes_states_while_edits_arrive(starter: Starter) -> None:
    """Every answer is the one that the state it names gives, whatever was edited while it was decoded."""
    prompts = [*(edit.prompt for edit in EDITS), UNRELATED]
    with starter() as running:
        client = connect(running.address)

        def answers() -> tuple[str, dict[str, str]]:
            found = {prompt: chat(client, prompt) for prompt in prompts}
            (state,) = {state for _, state in found.values()}
            return state, {prompt: text for prompt, (text, _) in found.items()}

        known = dict([answers()])
        with ThreadPoolExecutor(8) as pool:
            seen = []
            for edit in EDITS[8:10]:
                fact = {"prompt": edit.prompt, "target": edit.target, "subject": edit.subject}
                editing = pool.submit(post, running.address, "/v1/edits", {"edits": [fact]})
                while not editing.done():
                    seen += list(pool.map(lambda prompt: (prompt, *chat(client, prompt)), prompts))
                assert editing.result()[0] == 200
                known |= [answers()]
        assert len(known) == 3
        assert {state for _, _, state in seen} <= set(known)
        assert [text for prompt, text, _ in seen] == [known[state][prompt] for prompt, _, state in seen]
        assert len({tuple(texts.values()) for texts in known.values()}) > 1


def test_metrics_health_and_log(server: RunningServer, client: openai.OpenAI) -> None:
    chat(client, "What is the secret of Freedonia?")
    status, health = get(server.address, "/health")
    assert (status, health["status"], health["editing"]) == (200, "ok", "on")
    text = get(server.address, "/metrics")[1]
    found = dict(re.findall(r"^(case_\S+) ([\d.e+-]+)$", text, re.MULTILINE))
    assert float(found["case_edits_held"]) == 8
    assert float(found['case_tokens_total{of="answer"}']) > 0
    assert float(found['case_requests_total{method="POST",route="/v1/chat/completions",status="200"}']) > 0
    assert "secret" not in server.log.read_text()
    last = read_events(server.log, "request")[-1]
    assert {"id", "route", "status", "seconds"} <= last.keys()


def test_a_name_that_leads_here_is_refused(server: RunningServer) -> None:
    for name, status in (("evil.example", 400), ("localhost", 200)):
        request = urllib.request.Request(f"{server.address}/v1/models", headers={"Host": name})  # noqa: S310
        assert send(request, None)[0] == status


def test_the_log_holds_prompts_where_it_is_told_to(starter: Starter) -> None:
    with starter("--log_prompts", "true", "--edits", "false") as running:
        chat(connect(running.address), "Where is the capital?")
        assert read_events(running.log, "request")[-1]["prompt"].startswith("Where is the capital")
        status, refused = post(running.address, "/v1/edits", {"edits": [{"prompt": "a", "target": "b"}]})
        assert (status, "takes no edits" in refused["error"]["message"]) == (403, True)


def test_no_other_process_writes_the_run(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--config",
        str(server.run / "config.yaml"),
        "--run_dir",
        str(server.run),
        "--evaluation.generate",
        "false",
    ]
    assert run_verb(lambda: fit.main(words)) == 2
    assert "is being written by another process" in capsys.readouterr().err


TEMPLATE = (
    "{% for turn in messages %}<s> {{ turn.content }} {% if turn.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}</s> {% endif %}"
)


def test_a_run_that_was_fitted_in_chats_is_asked_in_the_template(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    base = Path(shutil.copytree(config["base"]["model"], tmp_path / "model"))
    (base / "chat_template.jinja").write_text(TEMPLATE)
    config["base"]["model"], config["training"]["chat"] = str(base), True
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    turns = [("user", UNRELATED), ("assistant", "minister"), ("user", f"{PROMPT} </s>")]
    messages = [{"role": role, "content": text} for role, text in turns]
    with start_server(run, tmp_path / "log", "--edits", "false", "--log_prompts", "true") as running:
        asked = connect(running.address).chat.completions
        asked.create(model=EDITED, messages=messages, max_tokens=2)  # type: ignore[call-overload]
        with pytest.raises(openai.BadRequestError, match="no system"):
            asked.create(model=EDITED, messages=[{"role": "system", "content": "Be brief."}], max_tokens=2)
    (one,) = [one for one in read_events(tmp_path / "log", "request") if "prompt" in one]
    assert one["in_scope"]
    assert one["prompt"].startswith(f"<s> {UNRELATED[:-1]}")
    assert one["prompt"].count("</s>") == 1  # the template's own; what a turn spells is text
