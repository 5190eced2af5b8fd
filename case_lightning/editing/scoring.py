"""Scoring an edited model on edits, by the field's protocols.

`wise`: teacher-forced; reliability and generalization are the mean share of right target tokens on the prompt and its
rephrases, locality the share of an unrelated answer's tokens on which the edited and the unedited model agree.
`harness` (MEMIT, AlphaEdit, UltraEdit): locality is the share of right tokens of the unrelated question's true answer.
Beside both: exact match, and exact match of free greedy generation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel

from case_lightning.base.suffix import only_positions
from case_lightning.data import Edit
from case_lightning.editing.answering import Answering
from case_lightning.editing.encoding import Encoded, encode


@dataclass(frozen=True)
class Answer:
    """How a model continues one prompt, at the positions of a given answer.

    Attributes:
        predicted: The likeliest token at each, `(answer,)`.
        labels: The answer's tokens, `(answer,)`.
        nll: Mean negative log-likelihood of the answer.
        logits: `(answer, vocabulary)`, kept only where asked for.
    """

    predicted: Tensor
    labels: Tensor
    nll: float
    logits: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that are the likeliest."""
        return (self.predicted == self.labels).float().mean().item()

    @property
    def exact(self) -> bool:
        """Whether all are."""
        return bool((self.predicted == self.labels).all())


class Scorer:
    """Asks an editable model, edited or not, whatever the method that edits it.

    Args:
        method: The model.
        batch_size: Prompts asked at once.
    """

    def __init__(self, method: Answering, batch_size: int = 32) -> None:
        """Store the arguments."""
        self.method, self.base, self.batch_size = method, method.base, batch_size

    def encode(self, prompt: str, answer: str) -> Encoded:
        """A prompt with the answer it is scored on."""
        return encode(self.base.tokenizer, prompt, answer)

    @torch.no_grad()
    def ask(self, questions: Sequence[Encoded], edited: bool = True, keep_logits: bool = False) -> list[Answer]:
        """Teacher-forced answers, in order; asked by length, so that little is spent on padding.

        Args:
            questions: Prompts with answers.
            edited: Whether the edited model is asked.
            keep_logits: Whether logits are kept.
        """
        order = sort_by_length(questions)
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            found = self._forward([questions[index] for index in chosen], edited, keep_logits)
            answers |= dict(zip(chosen, found, strict=True))
        return [answers[index] for index in range(len(questions))]

    def _forward(self, batch: Sequence[Encoded], edited: bool, keep_logits: bool) -> Iterator[Answer]:
        device = self.base.model.device
        tokens = pad_sequence([question.tokens for question in batch], batch_first=True).to(device)
        counts = torch.tensor([len(question.labels) for question in batch])
        rows = torch.repeat_interleave(torch.arange(len(batch)), counts)
        columns = torch.cat([question.columns for question in batch])
        head, prompts = self.base.architecture.output_head, [question.prompt for question in batch]
        with self.method.answering(prompts, edited), only_positions(head, rows, columns):
            logits = self.base.model(input_ids=tokens, use_cache=False).logits[0].float().cpu()
        for question, part in zip(batch, logits.split(counts.tolist()), strict=True):
            nll = torch.nn.functional.cross_entropy(part, question.labels).item()
            yield Answer(part.argmax(-1), question.labels, nll, part.clone() if keep_logits else None)

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], max_new_tokens: int, edited: bool = True) -> list[str]:
        """Free greedy answers, without the prompt.

        Args:
            prompts: The prompts.
            max_new_tokens: Longest answer.
            edited: Whether the edited model is asked.
        """
        questions = [self.encode(prompt, ".") for prompt in prompts]
        rooms = [self.base.context_length - len(question.prompt) for question in questions]
        answers = self._generate(questions, [min(max_new_tokens, room) for room in rooms], edited)
        return [str(self.base.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]

    def matches(self, questions: Sequence[Encoded]) -> list[bool]:
        """Whether free greedy generation begins with each answer, token for token."""
        answers = self._generate(questions, [len(question.labels) for question in questions], edited=True)
        pairs = zip(answers, questions, strict=True)
        return [torch.equal(answer[: len(question.labels)], question.labels) for answer, question in pairs]

    @torch.no_grad()
    def _generate(self, questions: Sequence[Encoded], lengths: list[int], edited: bool) -> list[Tensor]:
        answers: list[Tensor] = [torch.empty(0)] * len(questions)
        order = sorted(sort_by_length(questions), key=lambda index: lengths[index])
        for chosen in self._cut([(index, len(questions[index].prompt), lengths[index]) for index in order]):
            prompts = [questions[index].prompt for index in chosen]
            found = self.generate_batch(prompts, max(lengths[index] for index in chosen), edited)
            for index, answer in zip(chosen, found, strict=True):
                answers[index] = answer[: lengths[index]]
        return answers

    def _cut(self, questions: Sequence[tuple[int, int, int]]) -> Iterator[list[int]]:
        """Batches of questions, `(index, prompt, answer)` with lengths, whose longest fit the context together."""
        chosen, longest = list[int](), 0
        for index, prompt, answer in questions:
            longest = max(longest, prompt)
            if chosen and (len(chosen) == self.batch_size or longest + answer > self.base.context_length):
                yield chosen
                chosen, longest = [], prompt
            chosen.append(index)
        if chosen:
            yield chosen

    @torch.no_grad()
    def generate_batch(self, prompts: list[Tensor], max_new_tokens: int, edited: bool, least: int = 0) -> Tensor:
        """Token ids of free greedy answers, `(prompts, answer)`, of at least `least` tokens each."""
        device = self.base.model.device
        pad = self.base.tokenizer.pad_token_id
        tokens = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left").to(device)
        mask = pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left").to(device)
        lengths = {"max_new_tokens": max_new_tokens, "min_new_tokens": least}
        with self.method.answering(prompts, edited, "left"), _plain_generation(self.base.model):
            found: Tensor = self.method.model.generate(  # type: ignore[operator]
                input_ids=tokens, attention_mask=mask, do_sample=False, pad_token_id=pad, **lengths
            )
        return found[:, tokens.shape[1] :].cpu()


@contextmanager
def _plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """Within this context a checkpoint's own habits of generation, as a repetition penalty, are left out."""
    own, plain = model.generation_config, GenerationConfig()  # type: ignore[no-untyped-call]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(plain, name, getattr(own, name, None))
    model.generation_config = plain
    try:
        yield
    finally:
        model.generation_config = own


@dataclass(frozen=True)
class Questions:
    """What a list of edits is scored on.

    Attributes:
        prompts: Each edit's prompt with its target.
        rephrases: Its rephrases with its target, those of all edits in a row.
        owners: Which edit each rephrase belongs to.
        unrelated: Unrelated prompts with their true answers, those of all edits in a row.
        answered: Whether each of these has one.
    """

    prompts: list[Encoded]
    rephrases: list[Encoded]
    owners: list[int]
    unrelated: list[Encoded]
    answered: list[bool]


def sort_by_length(questions: Sequence[Encoded]) -> list[int]:
    """Indices of questions, the shortest first."""
    return sorted(range(len(questions)), key=lambda index: len(questions[index].tokens))


def collect_questions(scorer: Scorer, edits: Sequence[Edit]) -> Questions:
    """Encode all that edits are scored on; an unrelated prompt without an answer is scored on its own last token."""
    rephrases = [(index, rephrase) for index, edit in enumerate(edits) for rephrase in edit.rephrases]
    unrelated = [one for edit in edits for one in edit.locality]
    return Questions(
        prompts=[scorer.encode(edit.prompt, edit.target) for edit in edits],
        rephrases=[scorer.encode(rephrase, edits[index].target) for index, rephrase in rephrases],
        owners=[index for index, _ in rephrases],
        unrelated=[scorer.encode(one.prompt, one.answer or ".") for one in unrelated],
        answered=[bool(one.answer) for one in unrelated],
    )
