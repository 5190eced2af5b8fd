"""MEMOIR: a residual memory of which each edit writes, and each prompt reads, only a few columns.

Beside the down-projection with weights `W` stands a memory `W_m`, zero at first. For an input `a` at any token of a
prompt x the layer puts out [1, section 3]

    W a + W_m (m(x) ⊙ a) .                                                                                        (1)

The mask comes from what enters the projection, averaged over the prompt's tokens and taken relative to the same average
over irrelevant prompts, `ā(x)`. With a fixed random permutation π, TopHash is

    m(x)_{π(j)} = 1  for the k indices j with the largest |ā(x)_j| ,  else 0 .                                    (2)

While an edit is learned, by gradient descent on `−Σ_j log P(y_j ∣ x, y_{<j})`, (1) has its own mask, so no other column
of `W_m` moves. Its mask is stored. A prompt asked later is compared with all stored masks,

    R_i = |m(x) ∩ m_i| / k ,   answered by (1) with the mask of the largest R_i where that is at least τ,         (3)

and by `W` alone otherwise.

As in the authors' code the edit's gradient is clipped to length 1, and a prompt is also learned behind prefixes which
the model wrote, with the mask of the plain prompt. Edits of a batch are learned one after the other.

References:
    [1] Wang, Qin, Dimitriadis, Favero, Frossard: MEMOIR: lifelong model editing with minimal overwrite and informed
        retention for LLMs. NeurIPS 2025. arXiv:2506.07899.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.changed_output import Change
from case_lightning.baselines.fact_lookup import write_prefixes
from case_lightning.baselines.irrelevant import draw_irrelevant
from case_lightning.baselines.trained import OneLayerMethod
from case_lightning.data import Edit
from case_lightning.editing.answering import Side
from case_lightning.editing.encoding import encode

N_IRRELEVANT = 100  # prompts, as in the authors' code


@dataclass(frozen=True)
class MemoirSettings:
    """How the memory is written and read.

    Args:
        layer: The edited layer; by default the one that the package edits.
        active_share: `k`, as a share of the projection's inputs; 4096 of 14336 in the authors' code.
        threshold: `τ`; 0.4 in the authors' code, which unrelated questions to a 135M model reach.
        n_prefixes: Texts that the model writes to put before each prompt; 10 in the authors' code, where a step takes
            as much longer.
        steps: Optimizer steps an edit, at most.
        learning_rate: Of plain gradient descent.
        clip: Largest length of a step's gradient; 1 in the authors' code.
        enough: A loss below it ends an edit's steps.
    """

    layer: int | None = None
    active_share: float = 4096 / 14336
    threshold: float = 0.45
    n_prefixes: int = 1
    steps: int = 70
    learning_rate: float = 1.0
    clip: float = 1.0
    enough: float = 0.02


class Memoir(OneLayerMethod):
    """Edits by a sparsely used residual memory.

    Args:
        base: The frozen base model.
        seed: Of the permutation, prefixes and irrelevant prompts.
        settings: How the memory is written and read.

    Attributes:
        memory: `W_m`, `(d_out, d_in)`.
        masks: What each edit writes to, `(edits, d_in)`.
    """

    def __init__(self, base: Base, seed: int = 0, settings: MemoirSettings | None = None) -> None:
        """Begin with an empty memory; irrelevant prompts are read when first needed."""
        self.settings = settings or MemoirSettings()
        super().__init__(base, seed, self.settings.layer)
        d_out, d_in, device = base.architecture.d_out, base.architecture.d_in, base.model.device
        self.memory = torch.zeros(d_out, d_in, device=device)
        self.masks = torch.zeros(0, d_in, dtype=torch.bool, device=device)
        self.active = max(round(self.settings.active_share * d_in), 1)
        self.prefixes: list[str] = []
        self._seed_hash(seed)

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        if not self.prefixes:
            self.prefixes = write_prefixes(self.base, self.settings.n_prefixes, self.seed)
        for edit in edits:
            self._learn(edit)

    @override
    def choose_change(self, prompts: Sequence[Tensor], padding: Side) -> Change | None:
        if not len(self.masks):
            return None
        used = choose_masks(self._hash(prompts), self.masks, self.settings.threshold)
        return add_masked(self.memory, used) if used.any() else None

    @override
    def state(self) -> dict[str, Tensor]:
        masks = torch.from_numpy(np.packbits(self.masks.cpu().numpy(), axis=1))
        return {"memory": self.memory, "masks": masks, "seed": torch.tensor(self.seed)}

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        device, d_in = self.base.model.device, self.base.architecture.d_in
        self.memory = state["memory"].to(device)
        self.masks = torch.from_numpy(np.unpackbits(state["masks"].numpy(), axis=1, count=d_in)).bool().to(device)
        self._seed_hash(int(state["seed"]))

    def _learn(self, edit: Edit) -> None:
        texts = [encode(self.base.tokenizer, prefix + edit.prompt, edit.target) for prefix in self.prefixes]
        mask = self._hash([texts[0].prompt])  # of the plain prompt
        batch = self.prepare(texts)
        memory = self.memory.clone().requires_grad_()
        change = add_masked(memory, mask.expand(len(texts), -1))
        clip = self.settings.clip
        handle = memory.register_hook(lambda gradient: shorten_to(gradient, clip))  # type: ignore[no-untyped-call]
        optimizer = torch.optim.SGD([memory], lr=self.settings.learning_rate)
        self.descend(lambda: self.changed_loss(batch, change), optimizer, self.settings.steps, self.settings.enough)
        handle.remove()
        self.memory = memory.detach()
        self.masks = torch.cat([self.masks, mask])

    def _seed_hash(self, seed: int) -> None:
        """Take the permutation and the irrelevant prompts from a seed."""
        self.seed = seed
        self.permutation = torch.randperm(self.base.architecture.d_in, generator=torch.Generator().manual_seed(seed))
        self.center: Tensor | None = None

    def _hash(self, prompts: Sequence[Tensor]) -> Tensor:
        """`m(x)` of each prompt, `(prompts, d_in)`."""
        if self.center is None:
            irrelevant = draw_irrelevant(self.base.tokenizer, N_IRRELEVANT, self.seed)
            self.center = self._average(irrelevant).mean(0)
        return top_hash(self._average(prompts) - self.center, self.active, self.permutation)

    def _average(self, prompts: Sequence[Tensor]) -> Tensor:
        """What enters the projection, averaged over each prompt's tokens, `(prompts, d_in)`."""
        return torch.stack([key.float().mean(0) for key in self.read_keys(prompts)])


def top_hash(features: Tensor, count: int, permutation: Tensor) -> Tensor:
    """TopHash (2).

    Args:
        features: `ā(x)` of each prompt, `(prompts, d_in)`.
        count: `k`.
        permutation: `π`, `(d_in,)`.

    Returns:
        `m(x)`, `(prompts, d_in)`, true `k` times a row.
    """
    largest = features.abs().topk(count, dim=1).indices
    masks = torch.zeros_like(features, dtype=torch.bool)
    return masks.scatter(1, permutation.to(largest.device)[largest], True)


def choose_masks(asked: Tensor, stored: Tensor, threshold: float) -> Tensor:
    """The stored mask that each prompt is answered with (3), `(prompts, d_in)`; nothing where it is like none.

    Args:
        asked: `m(x)` of each prompt, `(prompts, d_in)`.
        stored: `m_i` of each edit, `(edits, d_in)`.
        threshold: `τ`.
    """
    overlap = asked.float() @ stored.float().T / asked.sum(1, keepdim=True)  # (prompts, edits)
    best, nearest = overlap.max(dim=1)
    return stored[nearest] & (best >= threshold)[:, None]


def add_masked(memory: Tensor, masks: Tensor) -> Change:
    """A change that adds what the memory has for each row (1); rows without a mask stay as they are, to the bit.

    Args:
        memory: `W_m`, `(d_out, d_in)`.
        masks: Mask of each row, `(rows, d_in)`.
    """
    rows = masks.any(1).nonzero()[:, 0]

    def change(x: Tensor, y: Tensor, start: int) -> Tensor:
        read = functional.linear(x[rows].float() * masks[rows, None], memory)
        return y.index_add(0, rows, read.to(y.dtype))

    return change


def shorten_to(gradient: Tensor, longest: float) -> Tensor:
    """A gradient scaled down to a length where it is longer."""
    factor: Tensor = (longest / gradient.norm()).clamp_max(1)  # a gradient of no length gives infinity, so 1
    return gradient * factor
