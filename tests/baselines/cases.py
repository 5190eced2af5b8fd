"""Every method, with settings under which it learns a few edits of the tiny model in a second; a new one is a row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from case_lightning.base import Base
from case_lightning.baselines import (
    MEMIT,
    AlphaEdit,
    AlphaEditSettings,
    Case,
    CaseSettings,
    EditingMethod,
    FineTuning,
    FineTuningSettings,
    Grace,
    GraceSettings,
    Lora,
    LoraSettings,
    MEMITSettings,
    Memoir,
    MemoirSettings,
    Side,
    UltraEdit,
    UltraEditSettings,
    Wise,
    WiseSettings,
)
from case_lightning.config import ConsolidationSettings, SubspaceSettings, TrainingSettings
from case_lightning.data import Edit
from case_lightning.editing.encoding import Encoded, encode, encode_prompt

CASES: dict[str, tuple[type[Any], Any]] = {
    "alphaedit": (AlphaEdit, AlphaEditSettings(layers=(0,), n_prefixes=2, threshold=0.5, ridge=0.1)),
    "case": (
        Case,
        CaseSettings(
            subspace=SubspaceSettings(rank=32),
            training=TrainingSettings(steps=10, learning_rate=0.02, n_variants=1),
            consolidation=ConsolidationSettings(every=3),
        ),
    ),
    "ft": (FineTuning, FineTuningSettings(steps=10, learning_rate=0.01)),
    "ft, last token": (FineTuning, FineTuningSettings(steps=10, learning_rate=0.01, objective="last_token")),
    "grace": (Grace, GraceSettings(steps=10, learning_rate=0.5)),
    "lora": (Lora, LoraSettings(steps=10, learning_rate=0.01)),
    "lora, upper layers": (Lora, LoraSettings(first_layer=1, steps=10, learning_rate=0.02, target_modules=("o_proj",))),
    "memoir": (Memoir, MemoirSettings(steps=20, learning_rate=1.0)),
    "wise": (Wise, WiseSettings(mask_share=0.5, margins=(0.05, 0.2, 0.1), steps=40, learning_rate=0.1)),
    "wise, merged": (
        Wise,
        WiseSettings(margins=(0.5, 2.0, 1.0), steps=25, learning_rate=1.0, shard_edits=1, merged_shards=2),
    ),
    "memit": (MEMIT, MEMITSettings(layers=(0,), n_prefixes=2, covariance_weight=1.0)),
    "ultraedit": (UltraEdit, UltraEditSettings(learning_rate=0.03)),
}


class Untouched(EditingMethod):
    """The base model itself, to compare with; it is asked alone."""

    def edit(self, edits: Sequence[Edit]) -> None:
        raise AssertionError(f"the untouched model was to learn {edits}")

    @contextmanager
    def answering(self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right") -> Iterator[None]:
        yield

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass


def build(name: str, base: Base, seed: int = 0) -> EditingMethod:
    kind, settings = CASES[name]
    method: EditingMethod = kind(base, seed=seed, settings=settings)
    return method


def ask(base: Base, prompt: str, answer: str = "minister") -> Encoded:
    return encode(base.tokenizer, prompt, answer)


@torch.no_grad()
def answer(method: EditingMethod, questions: list[Encoded], edited: bool = True) -> list[Tensor]:
    """Teacher-forced logits at the positions of each answer, `(answer, vocabulary)`, padded on the right."""
    model = method.base.model
    tokens = pad_sequence([question.tokens for question in questions], batch_first=True)
    with method.answering([question.prompt for question in questions], edited):
        logits = model(input_ids=tokens, use_cache=False).logits
    return [row[question.columns] for row, question in zip(logits, questions, strict=True)]


@torch.no_grad()
def generate(
    method: EditingMethod, prompts: list[str], count: int, edited: bool = True
) -> tuple[list[Encoded], list[Tensor]]:
    """Greedy answers of `count` tokens, padded on the left; each with its logits, `(count, vocabulary)`."""
    tokens = [encode_prompt(method.base.tokenizer, prompt) for prompt in prompts]
    padding: Side = "left"
    inputs = pad_sequence(tokens, batch_first=True, padding_side=padding)
    mask = pad_sequence([torch.ones_like(one) for one in tokens], batch_first=True, padding_side=padding)
    with method.answering(tokens, edited, padding):
        found = method.model.generate(
            input_ids=inputs,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            output_logits=True,
            return_dict_in_generate=True,
        )
    texts = [torch.cat([one, row[inputs.shape[1] :]]) for one, row in zip(tokens, found.sequences, strict=True)]
    questions = [Encoded(text, len(one)) for text, one in zip(texts, tokens, strict=True)]
    return questions, list(torch.stack(found.logits, dim=1))


def nll(logits: Tensor, question: Encoded) -> float:
    return torch.nn.functional.cross_entropy(logits, question.labels).item()
