"""Load on a server: many clients at once while facts arrive, and every answer checked.

Serves a copy of a run, asks it edited and unedited questions from so many clients, and adds facts meanwhile. Then each
state that an answer named is loaded from the copy's snapshots, asked alone, and compared with what the clients got:

    python examples/load_test.py --run runs/quickstart --clients 64 --seconds 60 --facts 3
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import openai

from case_lightning.base import load_base
from case_lightning.command_line import settings_from
from case_lightning.data import Edit
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.ledger import Ledger
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.scoring import Scorer
from case_lightning.editing.session import open_adapter

MAX_TOKENS = 8
QUIET_SECONDS = 20.0  # without edits, at the start


@dataclass(frozen=True)
class Asked:
    """A question, its answer, the state that gave it, and when it was asked and answered, in seconds."""

    prompt: str
    text: str
    state: str
    start: float
    end: float


async def ask_until(client: openai.AsyncOpenAI, model: str, prompts: list[str], end: float, found: list[Asked]) -> None:
    """Ask one question after the other."""
    for index in range(10**9):
        start = time.perf_counter()
        if start >= end:
            return
        prompt = prompts[index % len(prompts)]
        turns: Any = [{"role": "user", "content": prompt}]
        answer = await client.chat.completions.create(model=model, messages=turns, max_tokens=MAX_TOKENS)
        text = (answer.choices[0].message.content or "").strip()
        found.append(Asked(prompt, text, answer.system_fingerprint or "", start, time.perf_counter()))


async def add_facts(client: openai.AsyncOpenAI, count: int, spans: list[tuple[float, float]]) -> None:
    """Add one fact after the other, and note when each was under way."""
    await asyncio.sleep(QUIET_SECONDS)
    for index in range(count):
        fact = {"prompt": f"The mayor of Port Hazel {index} is", "target": f"Ida Bloom {index}"}
        start = time.perf_counter()
        await client.post("/edits", body={"edits": [fact]}, cast_to=object)
        spans.append((start, time.perf_counter()))


async def load(address: str, prompts: list[str], clients: int, seconds: float, facts: int) -> dict[str, Any]:
    """Put a server under load."""
    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    model = (await client.models.list()).data[0].id
    found: list[Asked] = []
    spans: list[tuple[float, float]] = []
    start = time.perf_counter()
    turned = [prompts[index % len(prompts) :] + prompts[: index % len(prompts)] for index in range(clients)]
    asking = [ask_until(client, model, one, start + seconds, found) for one in turned]
    outcomes = await asyncio.gather(add_facts(client, facts, spans), *asking, return_exceptions=True)
    return {
        "found": found,
        "spans": spans,
        "errors": [one for one in outcomes if isinstance(one, BaseException)],
        "wall": time.perf_counter() - start,
    }


def check(run: RunFolder, found: list[Asked]) -> int:
    """How many answers are not the one that their state gives when it is asked alone."""
    settings = settings_from(run.read_config()).base
    base = load_base(settings.model, settings.dtype, settings.device, settings.trust_remote_code)
    snapshots = {one.digest[:12]: one.name for one in Ledger(run.ledger).snapshots()}
    by_state = defaultdict(list)
    for one in found:
        by_state[one.state.split("-")[1]].append(one)
    wrong = 0
    for digest, asked in by_state.items():
        model = open_adapter(base, run.snapshots / snapshots[digest])
        prompts = sorted({one.prompt for one in asked})
        answers = dict(zip(prompts, Scorer(RoutedModel(base, model), 1).generate(prompts, MAX_TOKENS), strict=True))
        wrong += sum(answers[one.prompt] != one.text for one in asked)
        model.unload()
    return wrong


def summarize(result: dict[str, Any], steps: dict[str, float]) -> dict[str, Any]:
    """Throughput and latencies, those of answers while no edit was under way at any moment apart."""
    found, spans = result["found"], result["spans"]

    def percentiles(asked: list[Asked]) -> dict[str, float]:
        if len(asked) < 2:
            return {"answers": len(asked)}
        cuts = statistics.quantiles([one.end - one.start for one in asked], n=100, method="inclusive")
        return {"answers": len(asked)} | {f"p{n}_seconds": round(cuts[n - 1], 3) for n in (50, 95, 99)}

    during = [one for one in found if any(start <= one.end and one.start <= end for start, end in spans)]
    alone = [one for one in found if one not in during]
    return {
        "answers": len(found),
        "answers_per_second": round(len(found) / result["wall"], 2),
        "errors": len(result["errors"]),
        "states": len({one.state for one in found}),
        "without_edits": percentiles(alone),
        "while_editing": percentiles(during),
        "edit_seconds": [round(end - start, 1) for start, end in spans],
        **steps,
    }


def read_steps(address: str) -> dict[str, float]:
    """Mean seconds of a decoding step so far, from the server's metrics."""
    from urllib.request import urlopen

    with urlopen(f"{address}/metrics") as response:  # noqa: S310  our own server
        text = response.read().decode()
    total, count = (float(re.search(rf"case_step_seconds_{one} (\S+)", text)[1]) for one in ("sum", "count"))  # type: ignore[index]
    return {"steps": count, "mean_step_seconds": round(total / max(count, 1), 4)}


def start_server(run: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The server and its address, once it is ready."""
    with log.open("w") as file:
        command = [sys.executable, "-m", "case_lightning.serve", "--run", str(run), "--port", "0", "--chat", "question"]
        process = subprocess.Popen(command, stderr=file, env=os.environ)  # noqa: S603
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and json.loads(line)["event"] == "ready":
                return process, json.loads(line)["address"]
        time.sleep(0.2)
    raise SystemExit(log.read_text())


def main() -> None:
    """Run the test and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--facts", type=int, default=3, help="at most 3: older states may be gone when they are checked"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(shutil.copytree(options.run, Path(folder) / "run"))
        edits: list[Edit] = Ledger(run.ledger).edits()
        unrelated = list(dict.fromkeys(one.prompt for edit in edits for one in edit.locality))
        own = [edit.prompt for edit in edits]
        prompts = [text for pair in zip_longest(own, unrelated[: len(own)]) for text in pair if text]
        if not prompts:
            raise SystemExit(f"--run: {options.run} holds no edit; make some first")
        process, address = start_server(run.path, Path(folder) / "log")
        try:
            result = asyncio.run(load(address, prompts, options.clients, options.seconds, options.facts))
            figures = summarize(result, read_steps(address))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        figures |= {"questions": len(prompts), "checked": len(result["found"]), "wrong": check(run, result["found"])}
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
