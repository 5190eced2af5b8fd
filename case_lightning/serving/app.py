"""The HTTP application: routes, what surrounds them, and errors in the form that OpenAI's clients read."""

import asyncio
import re
from importlib.resources import files

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from case_lightning.errors import CaseError
from case_lightning.serving.access import require
from case_lightning.serving.answers import answer_routes
from case_lightning.serving.edits import edit_routes
from case_lightning.serving.middleware import BodyLimit, RequestLog
from case_lightning.serving.refusals import describe_error, find_status
from case_lightning.serving.served import Served

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
PAGE_HEADERS = {
    "Content-Security-Policy": f"{PAGE_POLICY}; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
KIND = re.compile(r"constrained-str|str|list\[.*\]")  # what pydantic puts into a place beside fields
PAGE_TOKENS = 32  # longest answer on the page


def create_app(served: Served) -> FastAPI:
    """The application of a run that is being served."""
    app = FastAPI(title="case_lightning", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(answer_routes(served))
    app.include_router(edit_routes(served))
    _add_operation(app, served)
    _add_errors(app)
    app.add_middleware(BodyLimit, max_bytes=served.settings.limits.max_body_bytes)
    if served.settings.tokens.read is None:  # else a page of another site could have its name lead here
        host = served.settings.host
        own = f"[{host}]" if ":" in host else host  # as an address in a URL is written
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", own])
    app.add_middleware(RequestLog, metrics=served.metrics)
    return app


def _add_operation(app: FastAPI, served: Served) -> None:
    page = (files("case_lightning.serving") / "page.html").read_text(encoding="utf-8")
    page = page.replace("{{max_tokens}}", str(min(PAGE_TOKENS, served.settings.limits.max_tokens)))

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> JSONResponse:
        engine, desk = served.engine, served.desk
        editing = "off" if desk is None else "stopped" if not desk.alive else "stuck" if desk.stuck else "on"
        ready = engine.alive and editing in ("on", "off")
        found = {"status": "ok" if ready else "failed", "editing": editing, "state": engine.state.fingerprint}
        return JSONResponse(found, 200 if ready else 503)

    @app.get("/metrics", dependencies=[Depends(require(served.settings, "read"))])
    async def metrics() -> Response:
        served.metrics.waiting.set(served.engine.n_waiting)
        served.metrics.rows.set(served.engine.n_rows)
        served.metrics.held.set(served.engine.state.n_edits)
        text = await asyncio.to_thread(generate_latest, served.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def refuse_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if found[0]["type"] == "json_invalid":
            place, reason = found[0]["loc"][-1], found[0]["ctx"]["error"]
            return _refuse(400, f"the body: broken JSON at character {place} ({reason})")
        if found[0]["loc"] == ("body",):
            return _refuse(400, "the body: expected a JSON object, sent as Content-Type: application/json")
        # a field that may be of several kinds has a mistake for each: of the kind that it is there is more to say
        same = [one for one in found if one["loc"][:2] == found[0]["loc"][:2]]
        first = next((one for one in same if not one["type"].endswith("_type")), same[0])
        place = ".".join(str(one) for one in first["loc"] if one != "body" and not KIND.fullmatch(str(one)))
        return _refuse(400, f"{place or 'the request'}: {first['msg']}", place or None)

    @app.exception_handler(AnyHTTPException)
    async def refuse(_: Request, error: AnyHTTPException) -> JSONResponse:
        response = _refuse(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(CaseError)
    async def refuse_mistake(_: Request, error: CaseError) -> JSONResponse:
        status, headers = find_status(error)
        response = _refuse(status, str(error))
        response.headers.update(headers)
        return response


def _refuse(status: int, message: str, param: str | None = None) -> JSONResponse:
    return JSONResponse(describe_error(status, message, param), status)
