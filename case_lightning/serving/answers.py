"""`/v1/models`, `/v1/completions` and `/v1/chat/completions`, as OpenAI's clients ask them."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from jinja2 import TemplateError

from case_lightning.data.fields import optional_text, require_text
from case_lightning.editing.encoding import encode_prompt, encode_turns
from case_lightning.serving.access import require
from case_lightning.serving.engine import Piece, Question
from case_lightning.serving.leaving import wait_unless_gone
from case_lightning.serving.middleware import NOTES
from case_lightning.serving.refusals import describe_error
from case_lightning.serving.schemas import AnswerRequest, ChatRequest, CompletionRequest
from case_lightning.serving.served import Served

Json = dict[str, Any]


@dataclass
class Answer:
    """An answer as it comes.

    Attributes:
        served: The server.
        request: What was asked over HTTP.
        question: The same for the engine.
        model: The model's name.
        chat: Whether it is a chat's.
        id: Its name.
        created: When, in seconds.
    """

    served: Served
    request: Request
    question: Question
    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    async def pieces(self) -> AsyncIterator[Piece]:
        """Ask; if nobody waits for the answer any more, the engine is told.

        Raises:
            HTTPException: The engine failed.
            BusyError: Too many questions wait.
        """
        loop, metrics, started = asyncio.get_running_loop(), self.served.metrics, time.perf_counter()
        queue: asyncio.Queue[Piece] = asyncio.Queue()

        def deliver(piece: Piece) -> None:
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(queue.put_nowait, piece)

        ticket = self.served.engine.submit(self.question, deliver)
        try:
            piece, text = await queue.get(), ""
            metrics.first_piece.observe(time.perf_counter() - started)
            metrics.answers.labels(str(piece.in_scope).lower()).inc()
            metrics.tokens.labels("prompt").inc(len(self.question.prompt))
            while True:
                text += piece.text
                self._note(piece, text)
                if piece.finish == "error":
                    raise HTTPException(500, "the answer could not be computed; the server's log says why")
                yield piece
                if piece.finish:
                    return
                piece = await queue.get()
        finally:
            ticket.cancel()
            metrics.tokens.labels("answer").inc(len(ticket.tokens))

    async def whole(self) -> Json:
        """The answer as one object."""
        text, piece = "", None
        async for piece in self.pieces():
            text += piece.text
        assert piece is not None  # noqa: S101  there is a last one
        content = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        choice = {"index": 0, **content, "finish_reason": piece.finish, "logprobs": None}
        kind = "chat.completion" if self.chat else "text_completion"
        return self._frame(kind, piece) | {"choices": [choice], "usage": self._usage(piece)}

    async def events(self, first: Piece, rest: AsyncIterator[Piece], usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events, from its first piece on."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        piece, opening = first, {"role": "assistant"}
        while True:
            content = {"delta": opening | {"content": piece.text}} if self.chat else {"text": piece.text}
            choice = {"index": 0, **content, "finish_reason": piece.finish, "logprobs": None}
            yield _event(self._frame(kind, piece) | {"choices": [choice]})
            if piece.finish:
                break
            opening = {}
            try:
                piece = await anext(rest)
            except HTTPException as error:  # the status has been sent
                yield _event(describe_error(error.status_code, error.detail))
                return
        if usage:
            yield _event(self._frame(kind, piece) | {"choices": [], "usage": self._usage(piece)})
        yield "data: [DONE]\n\n"

    def _frame(self, kind: str, piece: Piece) -> Json:
        return {
            "id": ("chatcmpl-" if self.chat else "cmpl-") + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self._fingerprint(piece),
        }

    def _fingerprint(self, piece: Piece) -> str:
        return piece.state if self.question.edited else f"base-{self.served.base.fingerprint[:12]}"

    def _usage(self, piece: Piece) -> Json:
        n_prompt = len(self.question.prompt)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": piece.n_tokens,
            "total_tokens": n_prompt + piece.n_tokens,
        }

    def _note(self, piece: Piece, text: str) -> None:
        notes = self.request.scope[NOTES]
        notes |= self._usage(piece)
        notes |= {"state": self._fingerprint(piece), "in_scope": piece.in_scope, "finish": piece.finish}
        if self.served.settings.log_prompts:
            prompt = self.served.base.tokenizer.decode(self.question.prompt)
            notes |= {"prompt": prompt, "answer": text}


def answer_routes(served: Served) -> APIRouter:
    """The routes of those who ask."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(require(served.settings, "read"))])

    @router.get("/models")
    async def models() -> Json:
        return {"object": "list", "data": [_describe(name) for name in (served.edited_name, served.base_name)]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> Json:
        _check_model(served, name)
        return _describe(name)

    @router.post("/completions")
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        prompt = encode_prompt(served.base.tokenizer, require_text(asked.text, "prompt"))
        return await _respond(served, request, asked, prompt, asked.max_tokens)

    @router.post("/chat/completions")
    async def chat_completions(request: Request, asked: ChatRequest) -> Response:
        for index, message in enumerate(asked.messages):
            optional_text(message.text, f"messages[{index}]")  # what cannot be written as UTF-8 cannot be encoded
        require_text(asked.messages[-1].text, f"messages[{len(asked.messages) - 1}]")
        n_tokens = asked.max_completion_tokens or asked.max_tokens
        return await _respond(served, request, asked, _read_chat(served, asked), n_tokens)

    return router


async def _respond(
    served: Served, request: Request, asked: AnswerRequest, prompt: torch.Tensor, max_tokens: int | None
) -> Response:
    answer = _make_answer(served, request, asked, prompt, max_tokens)
    if asked.stream:
        pieces = answer.pieces()
        begun = asyncio.ensure_future(anext(pieces))
        first = await wait_unless_gone(request, begun, begun.cancel)  # what goes wrong until here has its own status
        return StreamingResponse(answer.events(first, pieces, asked.includes_usage), media_type="text/event-stream")
    computing = asyncio.ensure_future(answer.whole())
    whole = await wait_unless_gone(request, computing, computing.cancel)
    return Response(json.dumps(whole, ensure_ascii=False), media_type="application/json")


def _make_answer(
    served: Served, request: Request, asked: AnswerRequest, tokens: torch.Tensor, max_tokens: int | None
) -> Answer:
    _check_model(served, asked.model)
    limits, chat = served.settings.limits, isinstance(asked, ChatRequest)
    if max_tokens and max_tokens > limits.max_tokens:
        raise HTTPException(400, f"max_tokens: expected at most {limits.max_tokens}, found {max_tokens}")
    context = served.base.context_length
    n_tokens = max_tokens or min(limits.max_tokens, max(context - len(tokens), 1))
    longest = min(limits.max_prompt_tokens, context - n_tokens)
    if longest < 1:
        raise HTTPException(400, f"max_tokens: expected less than the {context} of the context, found {n_tokens}")
    if not 0 < len(tokens) <= longest:
        raise HTTPException(400, f"expected a prompt of at least one and at most {longest} tokens, found {len(tokens)}")
    edited = asked.model == served.edited_name
    question = Question(tokens, n_tokens, edited, asked.sampling, asked.stops, strip=chat)
    return Answer(served, request, question, asked.model, chat)


def _read_chat(served: Served, asked: ChatRequest) -> torch.Tensor:
    if served.settings.chat == "template":
        turns = [{"role": message.role, "content": message.text} for message in asked.messages]
        try:
            return encode_turns(served.base.tokenizer, turns)
        except TemplateError as error:
            raise HTTPException(400, f"messages: the model's chat template does not take them ({error})") from error
    last = asked.messages[-1]
    if last.role != "user":
        raise HTTPException(400, f"messages: expected the user's question at the end, found a turn of {last.role}")
    return encode_prompt(served.base.tokenizer, last.text)


def _check_model(served: Served, name: str) -> None:
    known = (served.edited_name, served.base_name)
    if name not in known:
        raise HTTPException(404, f"model: expected {' or '.join(known)}, found {name!r}")


def _describe(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "case_lightning"}


def _event(value: Json) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
