"""What requests may hold. A field that is not named here is refused: nothing that is asked for is passed over.

Ordinary clients send many a field that asks for nothing; those are taken with the value alone that does so.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from case_lightning.serving.sampling import Sampling

Zero = Annotated[float, Field(ge=0, le=0)] | None
NoList = Annotated[list[Any], Field(max_length=0)] | None
NoObject = Annotated[dict[str, Any], Field(max_length=0)] | None
No = Literal[False] | None
StopText = Annotated[str, Field(max_length=256)]


class Strict(BaseModel):
    """A request without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class StreamOptions(Strict):
    """How an answer is streamed."""

    include_usage: bool = False
    include_obfuscation: No = None


class AnswerRequest(Strict):
    """What both kinds of questions have in common."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = None
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: NoObject = None

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen: the likeliest where nothing else is asked for."""
        return Sampling(self.temperature or 0.0, self.top_p or 1.0, self.seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(one for one in found if one)

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(AnswerRequest):
    """A text to go on with."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: No = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None
    logprobs: None = None

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A turn of a chat; an answer of this server may come back as one."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    function_call: None = None
    tool_calls: None = None
    annotations: NoList = None
    audio: None = None

    @property
    def text(self) -> str:
        """All its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(Strict):
    """The form of an answer."""

    type: Literal["text"]


class ChatRequest(AnswerRequest):
    """A chat to answer."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, strict=True)
    logprobs: No = None
    top_logprobs: Zero = None
    metadata: dict[str, str] | None = None
    store: No = None
    service_tier: Literal["auto", "default"] | None = None
    response_format: ResponseFormat | None = None
    tools: NoList = None
    parallel_tool_calls: bool | None = None
    function_call: None = None
    reasoning_effort: None = None


class Fact(Strict):
    """A fact to be written into the model; fields as in `case_lightning.data.Edit`."""

    prompt: str
    target: str
    id: str | None = Field(default=None, max_length=200)
    subject: str | None = None
    rephrases: list[str] = Field(default_factory=list, max_length=32)


class AssessRequest(Strict):
    """Facts to look at."""

    edits: list[Fact] = Field(min_length=1)


class AddRequest(AssessRequest):
    """Facts to make."""

    on_contradiction: Literal["supersede", "keep", "reject"] = "supersede"


class IdsRequest(Strict):
    """Edits to undo or to make again."""

    ids: list[str] = Field(min_length=1)
