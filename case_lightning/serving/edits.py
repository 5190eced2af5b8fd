"""`/v1/edits`: list, assess, add, undo and redo, while questions are answered."""

import asyncio
import uuid
from typing import Any

from fastapi import APIRouter, Depends, Query, Request

from case_lightning.data import Edit
from case_lightning.data.fields import list_texts, optional_text, require_text
from case_lightning.errors import DataError
from case_lightning.serving.access import require
from case_lightning.serving.editor_process import Change
from case_lightning.serving.leaving import wait_unless_gone
from case_lightning.serving.middleware import NOTES
from case_lightning.serving.schemas import AddRequest, AssessRequest, Fact, IdsRequest
from case_lightning.serving.served import Served

GONE = ("superseded_by", "undone_at", "left_out")  # why a fact does not hold, if so
SHOWN = ("id", "prompt", "target", "subject", "batch", "subspace", "created_at", *GONE)
NOT_DONE = ("in ledger", "rejected", "replaced")  # what becomes of facts that are not made
Json = dict[str, Any]


def edit_routes(served: Served) -> APIRouter:
    """The routes of those who look at edits, and of those who make them."""
    router = APIRouter(prefix="/v1/edits")
    read, edit = ([Depends(require(served.settings, right))] for right in ("read", "edit"))

    @router.get("", dependencies=read)
    async def list_edits(
        search: str = "", limit: int = Query(100, ge=1, le=1000), offset: int = Query(0, ge=0)
    ) -> Json:
        rows = await asyncio.to_thread(served.ledger.rows)
        found = [row for row in rows if search.casefold() in f"{row['id']} {row['prompt']} {row['target']}".casefold()]
        found.reverse()  # the latest first
        shown = [{key: row[key] for key in SHOWN} for row in found[offset : offset + limit]]
        return {"object": "list", "data": shown, "total": len(found), "state": served.engine.state.fingerprint}

    @router.post("/assess", dependencies=edit)
    async def assess(request: Request, asked: AssessRequest) -> Json:
        return await _command(served, request, "assess", _read_facts(asked.edits))

    @router.post("", dependencies=edit)
    async def add(request: Request, asked: AddRequest) -> Json:
        return await _command(served, request, "add", _read_facts(asked.edits), asked.on_contradiction)

    @router.post("/undo", dependencies=edit)
    async def undo(request: Request, asked: IdsRequest) -> Json:
        return await _command(served, request, "undo", list(dict.fromkeys(asked.ids)))

    @router.post("/redo", dependencies=edit)
    async def redo(request: Request, asked: IdsRequest) -> Json:
        return await _command(served, request, "redo", list(dict.fromkeys(asked.ids)))

    return router


async def _command(served: Served, request: Request, name: str, items: list[Any], *more: str) -> Json:
    limits = served.settings.limits
    most = min(limits.max_edits, limits.edits_per_minute)
    if len(items) > most:
        raise DataError(f"expected at most {most} edits in one request, found {len(items)}")
    assert served.desk is not None  # noqa: S101  those who have no right to edit do not come here
    served.desk.check_room()  # who is sent away for want of it keeps the allowance
    served.allowance.take(len(items))
    command = served.desk.submit(name, items, *more)
    change: Change = await wait_unless_gone(request, asyncio.wrap_future(command), command.cancel)
    n_done = sum(one.get("status") not in NOT_DONE for one in change.results)
    served.metrics.edits.labels(name).inc(n_done)
    fingerprint = served.engine.state.fingerprint
    notes = {"action": name, "edits": n_done, "state": fingerprint, "held": change.n_edits}
    request.scope[NOTES].update(notes)
    if served.settings.log_prompts:
        texts = [one.to_json() if isinstance(one, Edit) else one for one in items]
        request.scope[NOTES]["items"] = texts
    return {"object": "list", "data": change.results, "state": fingerprint}


def _read_facts(facts: list[Fact]) -> list[Edit]:
    """Facts as edits; those without an id get one.

    Raises:
        DataError: One cannot be used.
    """
    edits = []
    for index, fact in enumerate(facts):
        try:
            edits.append(_read_fact(fact))
        except DataError as error:
            raise DataError(f"edits[{index}].{error}") from None
    return edits


def _read_fact(fact: Fact) -> Edit:
    return Edit(
        id=require_text(fact.id or f"served-{uuid.uuid4().hex[:12]}", "id"),
        prompt=require_text(fact.prompt, "prompt"),
        target=require_text(fact.target, "target"),
        subject=optional_text(fact.subject, "subject"),
        rephrases=list_texts(fact.rephrases, "rephrases"),
    )
