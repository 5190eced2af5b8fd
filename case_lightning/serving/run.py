"""From a run folder to a server that answers."""

import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from case_lightning.command_line import quiet_libraries, settings_from
from case_lightning.editing.ledger import Ledger
from case_lightning.editing.loading import LoadedRun, load_run
from case_lightning.errors import ConfigError
from case_lightning.serving.app import create_app
from case_lightning.serving.edit_desk import Allowance, EditDesk
from case_lightning.serving.engine import Engine
from case_lightning.serving.logs import log, start_log
from case_lightning.serving.metrics import Metrics
from case_lightning.serving.served import Served
from case_lightning.serving.settings import ServeSettings, check_access
from case_lightning.serving.state import load_state


def serve_run(settings: ServeSettings) -> None:
    """Serve a run until the process is told to end.

    Raises:
        ConfigError: The address cannot be listened at, or is open to other machines without tokens.
        CaseError: The run cannot be opened.
    """
    check_access(settings)
    quiet_libraries()
    start_log()
    listening = _listen(settings)
    desk = None
    try:
        publisher = _Publisher()
        if settings.edits:
            desk = EditDesk(settings.run, publisher.publish, settings.limits)
            desk.wait_until_open()
        served = _open(settings, load_run(settings.run), desk, publisher)
        host, port = listening.getsockname()[:2]
        place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log(
            "ready", address=place, models=[served.edited_name, served.base_name], state=served.engine.state.fingerprint
        )
        config = uvicorn.Config(create_app(served), log_config=None, access_log=False, timeout_graceful_shutdown=5)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends its work, then hands the signal on
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            served.engine.close()
    finally:
        listening.close()
        if desk:
            desk.close()


class _Publisher:
    """Loads the states that the editing process makes, and hands them to the engine."""

    def __init__(self) -> None:
        """Wait for `open`."""
        self._run: LoadedRun | None = None
        self._engine: Engine | None = None

    def open(self, run: LoadedRun, engine: Engine) -> None:
        """Say what to load beside and who shall answer."""
        self._run, self._engine = run, engine

    def publish(self, folder: Path, n_edits: int) -> None:
        """Load a state and answer from it."""
        assert self._run is not None  # noqa: S101  no edit is made before the server is ready
        assert self._engine is not None  # noqa: S101
        self._engine.publish(load_state(self._run.model, folder, n_edits, self._engine.state))


def _open(settings: ServeSettings, run: LoadedRun, desk: EditDesk | None, publisher: _Publisher) -> Served:
    ledger, metrics, limits = Ledger(run.folder.ledger), Metrics(), settings.limits
    state = load_state(run.model, run.adapter, len(run.edits))
    tokenizer = run.base.tokenizer
    engine = Engine(run.model, tokenizer, state, limits.max_rows, limits.max_waiting, metrics.steps.observe)
    publisher.open(run, engine)
    settings = replace(settings, chat=_choose_chat(settings.chat, run))
    return Served(settings, run.base, ledger, engine, desk, Allowance(limits.edits_per_minute), metrics)


def _choose_chat(asked: str, run: LoadedRun) -> str:
    if asked == "auto":
        return "template" if settings_from(run.folder.read_config()).training.chat else "question"
    if asked == "template" and not run.base.tokenizer.chat_template:
        raise ConfigError(f"--chat: the tokenizer of {run.base.name} has no chat template; give question")
    return asked


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--port: {settings.host}:{settings.port} cannot be listened at ({reason})") from error
