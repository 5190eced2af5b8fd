"""How tests speak with a server."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai

EDITED, BASE = "model+edits", "model"


def read_events(log: Path, event: str, process: subprocess.Popen[str] | None = None) -> list[dict[str, Any]]:
    """The log's lines of an event; waits for a first one."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
        found = [one for one in map(json.loads, lines) if one["event"] == event]
        if found:
            return found
        assert process is None or process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no {event} in {log.read_text()}")


def connect(address: str, token: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=token or "none", max_retries=0, timeout=120)


def post(address: str, path: str, body: object, token: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and content of an answer; errors, too."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(urllib.request.Request(address + path, data, {"Content-Type": "application/json"}), token)  # noqa: S310


def get(address: str, path: str, token: str | None = None) -> tuple[int, Any]:
    return send(urllib.request.Request(address + path), token)  # noqa: S310


def send(request: urllib.request.Request, token: str | None) -> tuple[int, Any]:
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            return response.status, _parse(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.code, _parse(error.read().decode())


def _parse(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text
