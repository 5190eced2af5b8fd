"""Scoring an edited model on edits, by the field's protocols.

`wise`: teacher-forced; reliability and generalization are the mean share of right target tokens on the prompt and its
rephrases, locality the share of an unrelated answer's tokens on which the edited and the unedited model agree.
`harness` (MEMIT, AlphaEdit, UltraEdit): locality is the share of right tokens of the unrelated question's true answer.
Beside both: exact match, and exact match of free greedy generation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from case_lightning.base import Base
from case_lightning.base.suffix import only_positions
from case_lightning.data import Edit
from case_lightning.editing.encoding import Encoded, encode
from case_lightning.subspace import UNEDITED, CaseModel


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
    """Asks a model with an adapter, edited or not.

    Args:
        base: The base model.
        model: The same with its adapter.
        batch_size: Prompts asked at once.
    """

    def __init__(self, base: Base, model: PeftModel, batch_size: int = 32) -> None:
        """Store the arguments."""
        self.base, self.model, self.batch_size = base, model, batch_size
        self.tuner = cast(CaseModel, model.base_model)

    def encode(self, prompt: str, answer: str) -> Encoded:
        """A prompt with the answer it is scored on."""
        return encode(self.base.tokenizer, prompt, answer)

    def route(self, questions: Sequence[Encoded]) -> Tensor:
        """The route of each prompt alone, `(questions,)`."""
        if not len(self.tuner.case_layer.adapter.keys):
            return torch.full((len(questions),), UNEDITED)
        router = self.tuner.router
        return torch.cat([router.route(question.tokens[None, : question.n_prompt]) for question in questions])

    @torch.no_grad()
    def ask(self, questions: Sequence[Encoded], edited: bool = True, keep_logits: bool = False) -> Iterator[Answer]:
        """Teacher-forced answers, in order.

        Args:
            questions: Prompts with answers.
            edited: Whether the router may send prompts through subspaces.
            keep_logits: Whether logits are kept.
        """
        for start in range(0, len(questions), self.batch_size):
            batch = questions[start : start + self.batch_size]
            routes = self.route(batch) if edited else torch.full((len(batch),), UNEDITED)
            yield from self._forward(batch, routes, keep_logits)

    def _forward(self, batch: Sequence[Encoded], routes: Tensor, keep_logits: bool) -> Iterator[Answer]:
        device = self.base.model.device
        tokens = pad_sequence([question.tokens for question in batch], batch_first=True).to(device)
        counts = torch.tensor([len(question.labels) for question in batch])
        rows = torch.repeat_interleave(torch.arange(len(batch)), counts)
        columns = torch.cat([question.columns for question in batch])
        head = self.base.architecture.output_head
        with self.tuner.forced_routes(routes.to(device)), only_positions(head, rows, columns):
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
            edited: Whether the adapter is on.
        """
        questions = [self.encode(prompt, ".") for prompt in prompts]
        answers = self._generate(questions, [max_new_tokens] * len(prompts), edited)
        return [str(self.base.tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]

    def matches(self, questions: Sequence[Encoded]) -> list[bool]:
        """Whether free greedy generation begins with each answer, token for token."""
        answers = self._generate(questions, [len(question.labels) for question in questions], edited=True)
        pairs = zip(answers, questions, strict=True)
        return [torch.equal(answer[: len(question.labels)], question.labels) for answer, question in pairs]

    @torch.no_grad()
    def _generate(self, questions: Sequence[Encoded], lengths: list[int], edited: bool) -> list[Tensor]:
        answers: list[Tensor] = [torch.empty(0)] * len(questions)
        order = sorted(range(len(questions)), key=lambda index: lengths[index])
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            prompts = [questions[index].tokens[: questions[index].n_prompt] for index in chosen]
            found = self.generate_batch(prompts, max(lengths[index] for index in chosen), edited)
            for index, answer in zip(chosen, found, strict=True):
                answers[index] = answer
        return answers

    @torch.no_grad()
    def generate_batch(self, prompts: list[Tensor], max_new_tokens: int, edited: bool, least: int = 0) -> Tensor:
        """Token ids of free greedy answers, `(prompts, answer)`, of at least `least` tokens each."""
        device = self.base.model.device
        pad = self.base.tokenizer.pad_token_id
        tokens = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left").to(device)
        mask = pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True, padding_side="left").to(device)
        lengths = {"max_new_tokens": max_new_tokens, "min_new_tokens": least}
        with self.tuner.forced_routes(torch.full((len(prompts),), UNEDITED)) if not edited else torch.no_grad():
            found: Tensor = self.model.generate(  # type: ignore[no-untyped-call]
                input_ids=tokens, attention_mask=mask, do_sample=False, pad_token_id=pad, **lengths
            )
        return found[:, tokens.shape[1] :].cpu()


@dataclass(frozen=True)
class Questions:
    """What a list of edits is scored on.

    Attributes:
        prompts: Each edit's prompt with its target.
        rephrases: Its rephrases with its target, those of all edits in a row.
        owners: Which edit each rephrase belongs to.
        unrelated: Unrelated prompts with their true answers, those of all edits in a row.
    """

    prompts: list[Encoded]
    rephrases: list[Encoded]
    owners: list[int]
    unrelated: list[Encoded]


def collect_questions(scorer: Scorer, edits: Sequence[Edit]) -> Questions:
    """Encode all that edits are scored on; an unrelated prompt without an answer is scored on its own last token."""
    rephrases = [(index, rephrase) for index, edit in enumerate(edits) for rephrase in edit.rephrases]
    return Questions(
        prompts=[scorer.encode(edit.prompt, edit.target) for edit in edits],
        rephrases=[scorer.encode(rephrase, edits[index].target) for index, rephrase in rephrases],
        owners=[index for index, _ in rephrases],
        unrelated=[scorer.encode(one.prompt, one.answer or ".") for edit in edits for one in edit.locality],
    )
