"""From an `Edit` to tokens and back: what is fed, which positions carry a label, where the subject stands."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.data import Edit


@dataclass(frozen=True)
class Encoded:
    """A prompt with the answer that shall follow it.

    Attributes:
        tokens: Token ids of both, `(length,)`.
        n_prompt: How many belong to the prompt.
    """

    tokens: Tensor
    n_prompt: int

    @property
    def labels(self) -> Tensor:
        """Token ids of the answer, `(answer,)`."""
        return self.tokens[self.n_prompt :]

    @property
    def columns(self) -> Tensor:
        """The positions that predict them, `(answer,)`."""
        return torch.arange(self.n_prompt - 1, len(self.tokens) - 1)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Tensor:
    """Token ids of a prompt, with the tokenizer's own special tokens, `(length,)`.

    White space at its end is left off: the space before an answer belongs to the answer's first token.
    """
    return torch.tensor(tokenizer(prompt.rstrip() or prompt).input_ids, dtype=torch.long)


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> Tensor:
    """Token ids of an answer that follows a prompt after one space, `(length,)`."""
    return torch.tensor(tokenizer(" " + answer.strip(), add_special_tokens=False).input_ids, dtype=torch.long)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, end: bool = False) -> Encoded:
    """Encode `prompt + " " + answer`, the two tokenised apart, so that the prompt's tokens never depend on the answer.

    Args:
        tokenizer: The base model's.
        prompt: The question.
        answer: The answer.
        end: Whether the end-of-sequence token is part of the answer.
    """
    head, tail = encode_prompt(tokenizer, prompt), encode_answer(tokenizer, answer)
    if end and tokenizer.eos_token_id is not None:
        tail = torch.cat([tail, torch.tensor([tokenizer.eos_token_id])])
    return Encoded(torch.cat([head, tail]), len(head))


def mark_subject(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> tuple[Tensor, Tensor]:
    """The edit's router key.

    Args:
        tokenizer: The base model's.
        edit: The edit. The first place of its subject in the prompt counts, whatever its case.

    Returns:
        Token ids of the prompt without special tokens and which of them touch the subject, both `(length,)`; none where
        the edit names no subject or its prompt does not contain it.
    """
    prompt, subject = edit.prompt.rstrip(), (edit.subject or "").strip()
    tokens = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    start = prompt.lower().find(subject.lower()) if subject else -1
    ids = torch.tensor(tokens.input_ids, dtype=torch.long)
    if start < 0 or not tokenizer.is_fast:
        return ids, torch.zeros(len(ids), dtype=torch.bool)
    end = start + len(subject)
    return ids, torch.tensor([not (last <= start or first >= end) for first, last in tokens["offset_mapping"]])
