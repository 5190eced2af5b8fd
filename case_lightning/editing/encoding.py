"""From an `Edit` to tokens and back: what is fed, which positions carry a label, where the subject stands.

The name of a special token in a text, such as `<|im_start|>`, is text like any other and never becomes that token.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.data import Edit
from case_lightning.data.subjects import find_names, find_subject

SHORT = 4  # letters of a subject that is not looked for in lower case
KEPT = 32  # tokens of a router key beside the subject's
MARKS = ("\ue000", "\ue001")  # of no meaning to anybody: around the number of a turn, where its text will stand
SPACE_MARK = "\u2581"  # how SentencePiece writes a space


@dataclass(frozen=True)
class Encoded:
    """A prompt with the answer that shall follow it.

    Attributes:
        tokens: Token ids of both, `(length,)`.
        n_prompt: How many belong to the prompt.
        start: The position from which on an edit of it acts: by default all do.
    """

    tokens: Tensor
    n_prompt: int
    start: int = 0

    @property
    def prompt(self) -> Tensor:
        """Token ids of the prompt, `(n_prompt,)`."""
        return self.tokens[: self.n_prompt]

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
    return torch.tensor(tokenizer(prompt.rstrip() or prompt, split_special_tokens=True).input_ids, dtype=torch.long)


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> Tensor:
    """Token ids of an answer that follows a prompt after one space, `(length,)`."""
    tokens = tokenizer(answer.strip(), add_special_tokens=False, split_special_tokens=True).input_ids
    # Tokenizers such as LLaMA-2's put a space before any text: a second one would be a token that answers never have.
    if not tokens or not tokenizer.convert_ids_to_tokens(tokens[:1])[0].startswith(SPACE_MARK):
        tokens = tokenizer(" " + answer.strip(), add_special_tokens=False, split_special_tokens=True).input_ids
    return torch.tensor(tokens, dtype=torch.long)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, end: bool = False) -> Encoded:
    """Encode `prompt + " " + answer`, the two tokenised apart, so that the prompt's tokens never depend on the answer.

    Args:
        tokenizer: The base model's.
        prompt: The question.
        answer: The answer.
        end: Whether the end-of-sequence token is part of the answer.
    """
    return _join(tokenizer, encode_prompt(tokenizer, prompt), encode_answer(tokenizer, answer), end)


def encode_chat(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, end: bool = False) -> Encoded:
    """Encode `prompt` as the only turn of a conversation, in the tokenizer's chat template, and `answer` as its reply.

    Args:
        tokenizer: The base model's, with a chat template.
        prompt: The question.
        answer: The answer.
        end: Whether the end-of-sequence token is part of the answer.
    """
    head = encode_turns(tokenizer, [{"role": "user", "content": prompt.strip()}])
    tail = tokenizer(answer.strip(), add_special_tokens=False, split_special_tokens=True).input_ids
    return _join(tokenizer, head, torch.tensor(tail, dtype=torch.long), end)


def encode_turns(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> Tensor:
    """Token ids of a conversation in the tokenizer's chat template, up to where the next answer begins, `(length,)`.

    Args:
        tokenizer: The base model's, with a chat template, which brings special tokens of its own.
        turns: Each a `role` and its `content`.
    """
    texts = [turn["content"] for turn in turns]
    parts = [_fill_template(tokenizer, turns)]
    if any(token in text for text in texts for token in tokenizer.all_special_tokens):
        marked = [{**turn, "content": f"{MARKS[0]}{index}{MARKS[1]}"} for index, turn in enumerate(turns)]
        parts = re.split(rf"{MARKS[0]}(\d+){MARKS[1]}", _fill_template(tokenizer, marked))
        parts[1::2] = [texts[int(index)] for index in parts[1::2]]
    tokens = [
        token
        for index, part in enumerate(parts)
        for token in tokenizer(part, add_special_tokens=False, split_special_tokens=index % 2 == 1).input_ids
    ]
    return torch.tensor(tokens, dtype=torch.long)


def _fill_template(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> str:
    return str(
        tokenizer.apply_chat_template([dict(turn) for turn in turns], tokenize=False, add_generation_prompt=True)
    )


def _join(tokenizer: PreTrainedTokenizerBase, head: Tensor, tail: Tensor, end: bool) -> Encoded:
    if end and tokenizer.eos_token_id is not None:
        tail = torch.cat([tail, torch.tensor([tokenizer.eos_token_id])])
    return Encoded(torch.cat([head, tail]), len(head))


def mark_start(tokenizer: PreTrainedTokenizerBase, encoded: Encoded, subject: str | None) -> Encoded:
    """Have an edit act from where its prompt has last named its subject, on the last token of that."""
    prompt = encoded.prompt
    text = _decode(tokenizer, prompt)
    names = find_names(text, subject)
    if not names:
        return encoded
    said = text[: names[-1][1]]
    # by what a beginning says, not by its length: one that ends within a character decodes to a mark in its place
    start = bisect_left(
        range(len(prompt)), True, key=lambda index: _decode(tokenizer, prompt[: index + 1]).startswith(said)
    )
    return replace(encoded, start=min(start, len(prompt) - 1))


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Tensor) -> str:
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def make_keys(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> list[tuple[Tensor, Tensor]]:
    """The edit's router keys: forms of its prompt that a query may have.

    Many tokenizers split a word at the start of a text in another way than inside it, so there is one form with the
    subject in front and one with it inside; and lower case is made of other tokens, so there is each form in it. Of a
    passage only the end is kept beside the subject: that is where its question stands.

    Returns:
        For each key the token ids without special tokens and which of them touch the subject, both `(length,)`.
    """
    prompt = edit.prompt.strip()
    start, end = find_subject(prompt, edit.subject) or (0, 0)
    forms = [(prompt, start)]
    if tokenizer.is_fast and end:
        subject, rest = prompt[start:end], " ".join(f"{prompt[:start]} {prompt[end:]}".split())
        forms.append((f"{subject} {rest}", 0) if start else (f"{rest} {subject}", len(rest) + 1))
    if end - start < len(prompt) and not 0 < end - start < SHORT:  # "US" in lower case is another word, "The World" two
        lowered = [(text.lower(), place) for text, place in forms]
        forms += [low for low, form in zip(lowered, forms, strict=True) if low != form and len(low[0]) == len(form[0])]
    return [_mark(tokenizer, text, place, place + end - start) for text, place in forms]


def _mark(tokenizer: PreTrainedTokenizerBase, text: str, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Token ids of a text and which of them touch the characters from `start` to before `end`."""
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=tokenizer.is_fast
    )
    spans = encoded["offset_mapping"] if tokenizer.is_fast else [(0, 0)] * len(encoded.input_ids)
    tokens = torch.tensor(encoded.input_ids, dtype=torch.long)
    touched = torch.tensor([start < end and first < end and last > start for first, last in spans], dtype=torch.bool)
    others_from_here = (~touched).flip(0).cumsum(0).flip(0)
    kept = touched | (others_from_here <= KEPT)
    return tokens[kept], touched[kept]
