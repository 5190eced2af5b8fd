"""Who may do what: bearer tokens, compared in constant time."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import HTTPException, Request

from case_lightning.serving.settings import EDIT_TOKEN, ServeSettings

Right = Literal["read", "edit"]


def check_right(settings: ServeSettings, header: str | None, right: Right) -> None:
    """Refuse a request that may not do what it wants.

    Args:
        settings: Those of the server.
        header: Its `Authorization`.
        right: What it wants; who may edit may read, too.

    Raises:
        HTTPException: 401 without a token that is known, 403 where it is one for reading alone or nobody may edit.
    """
    tokens = settings.tokens
    if right == "edit" and not settings.edits:
        raise HTTPException(403, "this server takes no edits; start it without --edits false")
    if right == "edit" and tokens.edit is None and tokens.read is not None:
        raise HTTPException(403, f"this server takes no edits; set {EDIT_TOKEN} and start it again")
    wanted = tokens.edit if right == "edit" else tokens.read
    if wanted is None:
        return
    kind, _, given = (header or "").partition(" ")
    given = given if kind.lower() == "bearer" else ""
    if _same(given, tokens.edit) or (right == "read" and _same(given, tokens.read)):
        return
    if _same(given, tokens.read):
        raise HTTPException(403, "this token is for reading alone; use the one for editing")
    raise HTTPException(401, "expected Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def require(settings: ServeSettings, right: Right) -> Callable[[Request], Awaitable[None]]:
    """`check_right` as a dependency of a route."""

    async def check(request: Request) -> None:
        check_right(settings, request.headers.get("authorization"), right)

    return check


def _same(given: str, wanted: str | None) -> bool:
    return wanted is not None and hmac.compare_digest(given.encode(), wanted.encode())
