"""How a run is served."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from case_lightning.errors import ConfigError

READ_TOKEN, EDIT_TOKEN = "CASE_READ_TOKEN", "CASE_EDIT_TOKEN"


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server.

    Attributes:
        max_body_bytes: Longest request.
        max_tokens: Longest answer, and what is taken where a request names no length.
        max_prompt_tokens: Longest prompt; the model's context bounds it, too.
        max_rows: Answers that are decoded at once.
        max_waiting: Questions that wait beside these; more are sent away.
        max_edits: Facts in one request.
        edits_per_minute: Facts added, assessed, undone or made again in a minute, by all clients together.
        max_waiting_edits: Requests to edit that are under way or wait; more are sent away.
        max_edit_seconds: Time after which one under way counts as stuck, and the server as ill.
    """

    max_body_bytes: int = 256 * 1024
    max_tokens: int = 256
    max_prompt_tokens: int = 1024
    max_rows: int = 64
    max_waiting: int = 256
    max_edits: int = 32
    edits_per_minute: int = 60
    max_waiting_edits: int = 8
    max_edit_seconds: int = 3600


@dataclass(frozen=True)
class Tokens:
    """Bearer tokens.

    Attributes:
        read: Of those who may ask; `None` where anybody may who reaches the server.
        edit: Of those who may edit and ask; `None` where those may edit who may ask without a token, and nobody else.
    """

    read: str | None = field(default=None, repr=False)
    edit: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ServeSettings:
    """All that the server is told.

    Attributes:
        run: Folder of the run.
        host: Address to listen at.
        port: Port; 0 is any that is free.
        edits: Whether facts may be added.
        chat: What of a chat the model is given: its last `question` alone, or all of it in the model's `template`;
            `auto` is the template where the run's edits were fitted in it, too.
        log_prompts: Whether the log holds questions and answers.
        limits: What a client may ask.
        tokens: Who may ask and edit.
    """

    run: str
    host: str = "127.0.0.1"
    port: int = 8000
    edits: bool = True
    chat: str = "auto"
    log_prompts: bool = False
    limits: Limits = field(default_factory=Limits)
    tokens: Tokens = field(default_factory=Tokens)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)


def read_tokens(environment: os._Environ[str] | dict[str, str]) -> Tokens:
    """The tokens in `CASE_READ_TOKEN` and `CASE_EDIT_TOKEN`, or in the files that these with `_FILE` behind them name.

    Raises:
        ConfigError: A token is too short, holds white space, or its file cannot be read.
    """
    return Tokens(_read_token(environment, READ_TOKEN), _read_token(environment, EDIT_TOKEN))


def check_access(settings: ServeSettings) -> None:
    """Refuse to be reached from elsewhere without tokens.

    Raises:
        ConfigError: The message says which one is missing.
    """
    tokens = settings.tokens
    missing = [READ_TOKEN] * (tokens.read is None) + [EDIT_TOKEN] * (settings.edits and tokens.edit is None)
    if missing and not settings.is_loopback:
        raise ConfigError(
            f"--host: {settings.host} can be reached from other machines, and {' and '.join(missing)} is not set; set "
            f"it, give --edits false, or listen at 127.0.0.1"
        )
    if tokens.edit is not None and tokens.edit == tokens.read:
        raise ConfigError(f"{EDIT_TOKEN}: expected another token than {READ_TOKEN}, found the same")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_token(environment: os._Environ[str] | dict[str, str], name: str) -> str | None:
    token, path = environment.get(name), environment.get(f"{name}_FILE")
    if token is None and path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}_FILE: {path} cannot be read ({error})") from error
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(f"{name}: expected at least 8 printable characters without spaces, found {len(token)}")
    return token
