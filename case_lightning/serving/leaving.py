"""Clients that leave before they are answered."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import HTTPException, Request

GONE = 499  # the client did not wait; nobody sees it but the log
T = TypeVar("T")


async def wait_unless_gone(request: Request, work: "asyncio.Future[T]", cancel: Callable[[], object]) -> T:
    """Wait for work that is given up once its client has gone.

    Args:
        request: The client's.
        work: What is waited for.
        cancel: Gives it up; where that is no longer possible, it is waited for all the same.

    Raises:
        HTTPException: It was given up.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancel()

    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({work})
    finally:
        watching.cancel()
        cancel()  # of no effect on what is done
    if work.cancelled():
        raise HTTPException(GONE, "the client has gone")
    return work.result()
