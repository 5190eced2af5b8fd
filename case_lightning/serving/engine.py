"""The engine: answers many questions at once, one token of each a step, in a thread of its own.

Between two steps answers that are done leave, questions that wait join, and a new state may be published. An answer
keeps the state that it began with; those of two states are decoded side by side until the older ones are done.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.serving.cohort import Cohort, put_in_place
from case_lightning.serving.logs import log
from case_lightning.serving.refusals import BusyError
from case_lightning.serving.sampling import Sampling, choose_token
from case_lightning.serving.state import State
from case_lightning.serving.text import TextStream
from case_lightning.subspace import UNEDITED


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        prompt: Token ids, `(length,)`.
        max_tokens: Longest answer.
        edited: Whether the edited model is asked.
        sampling: How tokens are chosen.
        stop: Texts at which the answer ends.
        strip: Whether white space at the beginning of the answer is left off.
    """

    prompt: Tensor
    max_tokens: int
    edited: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    strip: bool = False


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: What is added to it.
        n_tokens: How many tokens it has by now.
        state: Fingerprint of what it comes from: a reader that is slow is not to keep a whole adapter in memory.
        in_scope: Whether an edit answers.
        finish: `stop`, `length` or `error` at its end.
    """

    text: str
    n_tokens: int
    state: str
    in_scope: bool
    finish: str | None = None


Deliver = Callable[[Piece], None]


class Ticket:
    """A question under way.

    Args:
        question: The question.
        deliver: Called from the engine's thread with each piece of the answer.
        tokenizer: The base model's.
    """

    def __init__(self, question: Question, deliver: Deliver, tokenizer: PreTrainedTokenizerBase) -> None:
        """Nothing is answered yet."""
        self.question, self.deliver = question, deliver
        self.text = TextStream(tokenizer, question.stop, question.strip)
        self.generator = question.sampling.make_generator()
        self.tokens: list[int] = []
        self.route, self.state = (UNEDITED, 0), ""  # fingerprint of what it is answered from, once it has begun
        self.cancelled = self.done = False

    def cancel(self) -> None:
        """Nobody waits for the answer any more; its row goes with the next step."""
        self.cancelled = True

    def take(self, logits: Tensor, ends: frozenset[int]) -> None:
        """Choose the next token from its logits, `(vocabulary,)`, and deliver what is certain by now."""
        token = choose_token(logits, self.question.sampling, self.generator)
        self.tokens.append(token)
        text, finish = "", None
        if token in ends:
            finish = "stop"
        else:
            text = self.text.push(token)
            if self.text.stopped:
                finish = "stop"
            elif len(self.tokens) >= self.question.max_tokens:
                finish = "length"
        if finish:
            text += self.text.finish()
            self.done = True
        if text or finish:
            self.deliver(self.make_piece(text, finish))

    def make_piece(self, text: str, finish: str | None) -> Piece:
        """A part of its answer."""
        return Piece(text, len(self.tokens), self.state, self.route[0] != UNEDITED, finish)


class Engine:
    """Answers questions.

    Args:
        model: The base model with an adapter.
        tokenizer: Its tokenizer.
        state: The first state.
        max_rows: Most answers that are decoded at once.
        max_waiting: Most questions that may wait beside these.
        on_step: Called after each step with its seconds.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        state: State,
        max_rows: int = 64,
        max_waiting: int = 256,
        on_step: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Start the thread."""
        self.model, self.tokenizer, self.state = model, tokenizer, state
        self.max_rows, self.max_waiting, self.on_step = max_rows, max_waiting, on_step
        self.ends = _find_ends(model, tokenizer)
        self._waiting: deque[Ticket] = deque()
        self._active: list[tuple[Cohort, list[Ticket]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    @property
    def n_waiting(self) -> int:
        """How many questions wait."""
        return len(self._waiting)

    @property
    def n_rows(self) -> int:
        """How many answers are being decoded."""
        return sum(len(tickets) for _, tickets in self._active)

    def submit(self, question: Question, deliver: Deliver) -> Ticket:
        """Ask.

        Raises:
            BusyError: Too many questions wait.
        """
        ticket = Ticket(question, deliver, self.tokenizer)
        with self._changed:
            if len(self._waiting) >= self.max_waiting:
                self._waiting = deque(one for one in self._waiting if not one.cancelled)
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(f"{len(self._waiting)} questions wait already; ask again in a while")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def publish(self, state: State) -> None:
        """Answer questions from another state; answers under way keep theirs."""
        with self._changed:
            self.state = state
            self._changed.notify()

    def close(self) -> None:
        """Stop; answers under way are not finished."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                while not (self._waiting or self._active or self._closed):
                    put_in_place(self.model, self.state)  # an older one would stay in memory until the next question
                    self._changed.wait()
            self._go_on()

    def _go_on(self) -> None:
        with self._changed:
            free = self.max_rows - self.n_rows
            admitted = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            state = self.state
        under_way = [ticket for _, tickets in self._active for ticket in tickets]
        self._guard([*under_way, *admitted], partial(self._step, admitted, state))
        self._active = [one for one in self._active if not one[1][0].done]

    def _step(self, admitted: list[Ticket], state: State) -> None:
        started = time.perf_counter()
        for cohort, tickets in self._active:
            self._guard(tickets, partial(cohort.step, [ticket.tokens[-1] for ticket in tickets]))
        self._active = [(cohort, tickets) for cohort, tickets in self._active if not tickets[0].done]
        self._admit([ticket for ticket in admitted if not ticket.cancelled], state)
        self._deliver()
        self._join()
        self.on_step(time.perf_counter() - started)

    def _admit(self, tickets: list[Ticket], state: State) -> None:
        if not tickets:
            return
        try:
            self._begin(tickets, state)
        except Exception:  # one that cannot be run is not to take those with it that came in the same step
            for ticket in tickets:
                self._guard([ticket], partial(self._begin, [ticket], state))

    def _begin(self, tickets: list[Ticket], state: State) -> None:
        for ticket in tickets:
            ticket.state = state.fingerprint
            ticket.route = state.route(ticket.question.prompt) if ticket.question.edited else (UNEDITED, 0)
        prompts = [ticket.question.prompt for ticket in tickets]
        self._active.append((Cohort(self.model, state, prompts, [ticket.route for ticket in tickets]), tickets))

    def _deliver(self) -> None:
        """Choose a token for each row, and let go of those that are done."""
        left = []
        for cohort, tickets in self._active:
            for row, ticket in enumerate(tickets):
                if not ticket.cancelled:
                    self._guard([ticket], partial(ticket.take, cohort.logits[row], self.ends))
            stay = [row for row, ticket in enumerate(tickets) if not (ticket.done or ticket.cancelled)]
            if stay and len(stay) < len(tickets):
                cohort.keep(stay)
            if stay:
                left.append((cohort, [tickets[row] for row in stay]))
        self._active = left

    def _join(self) -> None:
        """Put the cohorts of each state together, where their caches allow it."""
        joined: list[tuple[Cohort, list[Ticket]]] = []
        for cohort, tickets in self._active:
            same = next((one for one in joined if one[0].state is cohort.state and cohort.can_join), None)
            if same is None:
                joined.append((cohort, tickets))
            else:
                same[0].join(cohort)
                same[1].extend(tickets)
        self._active = joined

    def _guard(self, tickets: Sequence[Ticket], act: Callable[[], None]) -> None:
        """Answers whose step fails end with an error; the others go on."""
        try:
            act()
        except Exception as error:  # memory, a device: whatever it is, it is these rows' alone
            log("failed", error=f"{type(error).__name__}: {error}")
            for ticket in tickets:
                if not ticket.done:
                    ticket.done = True
                    ticket.deliver(ticket.make_piece("", "error"))


def _find_ends(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(int(one) for one in (*several, tokenizer.eos_token_id) if one is not None)
