"""What happens to every request: it is bounded in length, counted, and written to the log as one line of JSON.

The log holds no text of a question, an answer or a fact unless the server is told to log these.
"""

import asyncio
import time
import traceback
import uuid

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from case_lightning.serving.logs import log
from case_lightning.serving.metrics import Metrics
from case_lightning.serving.refusals import describe_error

NOTES = "case_notes"  # key of a request's scope: what its route has to say in the log
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class BodyLimit:
    """Refuses requests that are too long, also those that do not say how long they are.

    Args:
        app: What handles the others.
        max_bytes: Longest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Store the arguments."""
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body first; what is beyond the limit is not kept."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(receive)
        except ClientDisconnect:
            return
        if body is None:
            message = f"expected at most {self.max_bytes} bytes; send less at once"
            refusal = JSONResponse(describe_error(413, message), 413)
            await refusal(scope, receive, send)
            return
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, receive_again, send)

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)


class RequestLog:
    """Counts requests and logs each when it is done.

    Args:
        app: What handles them.
        metrics: Where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Store the arguments."""
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with an id that its answer names as `x-request-id`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, name = time.perf_counter(), 499, uuid.uuid4().hex[:16]  # 499: nobody waited for the answer
        scope[NOTES] = {}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server ends, and does not wait longer
            if status == 499:
                message = "the server has ended; what it was at is done whole or not at all, ask it again later"
                await JSONResponse(describe_error(503, message), 503)(scope, receive, send_with_id)
        except Exception as error:
            _log_failure(name, error)
            if status != 499:  # it has been sent
                raise
            message = f"the server failed; its log says where, at the request {name}"
            await JSONResponse(describe_error(500, message), 500)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")  # what clients make up is not a label
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            place = {"id": name, "method": method, "route": route}
            log("request", **place, status=status, seconds=round(seconds, 4), **scope[NOTES])


def _log_failure(request: str, error: Exception) -> None:
    """Its type and place; its message may hold what was asked."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    log("failed", id=request, error=type(error).__name__, at=f"{last.filename}:{last.lineno}")
