"""WISE: edits go into side memories, copies of one projection's weights, and a router decides which weights answer.

With `A(x)` what enters the down-projection with weights `W`, and a side memory `W′ = W + ΔW`, the routing activation
of a prompt [1, equation 4] is

    Δ_act(x) = ‖A(x) · (W′ − W)‖_2 ,  a mean over the prompt's tokens.                                            (1)

An edit `x_e, y_e` is learned by gradient descent on `−log P_{W′}(y_e ∣ x_e) + L_a` [1, equation 7], where with
irrelevant prompts `x_i` [1, equation 5]

    L_a = max(0, Δ_act(x_i) − α) + max(0, β − Δ_act(x_e)) + max(0, γ − (Δ_act(x_e) − Δ_act(x_i)))                 (2)

Within a shard of the stream only a random share ρ of the entries of `W′` is trained [1, equation 8]. Each shard begins
with a fresh copy of `W` and another mask; every few shards their updates are merged into one by TIES [1, equation 9].
A prompt is answered from the memory with the largest `Δ_act` of those above their threshold `ε`, the least `Δ_act`
of an edit in that memory, and from `W` where there is none [1, equation 6]. WISE-Retrieve keeps what is merged as a
memory of its own; WISE-Merge merges it again with the next shards, so that one memory remains.

As in the authors' code the threshold is somewhat lower than the least activation, entries of `ΔW` are bounded, and a
prompt is also learned behind prefixes which the model wrote. Edits of a batch are learned one after the other. Ours:
(2) is a mean over an edit's prompts, each with an irrelevant one drawn anew at every step; a shard not merged yet is a
memory as any other; merging again is TIES with the merged update as one of those merged; and since learning an edit, or
merging, changes what earlier edits' prompts activate, `ε` is taken anew over all of a memory's edits after each batch.

References:
    [1] Wang, Li, Zhang, Xu, Yao, Jiang, Xie, Huang, Chen: WISE: rethinking the knowledge memory for lifelong model
        editing of large language models. NeurIPS 2024. arXiv:2405.14768.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.changed_output import Change
from case_lightning.baselines.fact_lookup import write_prefixes
from case_lightning.baselines.irrelevant import draw_irrelevant
from case_lightning.baselines.ties import merge_updates
from case_lightning.baselines.trained import OneLayerMethod
from case_lightning.data import Edit
from case_lightning.editing.answering import Side
from case_lightning.editing.encoding import encode

MAIN = -1  # of a prompt that the unedited weights answer
N_IRRELEVANT = 100  # prompts


@dataclass(frozen=True)
class WiseSettings:
    """How side memories are trained, merged and chosen.

    Args:
        layer: The edited layer; by default the one that the package edits.
        mask_share: `ρ`, share of the weights that a shard trains; 0.2 in [1].
        margins: `α`, `β` and `γ` of (2).
        shard_edits: Edits after which a shard ends; 500 in the authors' code.
        merged_shards: How many shards are merged into one memory; 2 in [1].
        density: Share of an update that TIES keeps; 0.53 in the authors' code.
        retrieve: Whether what was merged is kept as a memory of its own.
        threshold_share: `ε` as a share of the least activation of an edit; 0.88 in the authors' code.
        n_prefixes: Texts that the model writes to put before each prompt; 10 in [1], where a step takes as much longer.
        steps: Optimizer steps an edit, at most; 70 in the authors' code.
        learning_rate: Of plain gradient descent.
        bound: Largest entry of `ΔW`; 1 in the authors' code.
        enough: A loss below it ends an edit's steps.
    """

    layer: int | None = None
    mask_share: float = 0.2
    margins: tuple[float, float, float] = (5.0, 20.0, 10.0)
    shard_edits: int = 500
    merged_shards: int = 2
    density: float = 0.53
    retrieve: bool = True
    threshold_share: float = 0.88
    n_prefixes: int = 1
    steps: int = 70
    learning_rate: float = 1.0
    bound: float = 1.0
    enough: float = 0.02


@dataclass
class SideMemory:
    """A copy of the projection's weights.

    Attributes:
        delta: `ΔW`, by which it differs, `(d_out, d_in)`.
        n_edits: Edits in it.
        least: The least activation of one of them.
        merged: Whether shards were merged into it.
        keys: `A(x_e)` of its edits' prompts, `(length, d_in)` each, of those learned since it was loaded.
    """

    delta: Tensor
    n_edits: int = 0
    least: float = float("inf")
    merged: bool = False
    keys: list[Tensor] = field(default_factory=list)

    def measure(self) -> None:
        """Take the least activation anew; an edit whose keys are not at hand counts as it did before."""
        known = routing_activation(self.keys, self.delta).min().item() if self.keys else float("inf")
        self.least = known if len(self.keys) == self.n_edits else min(known, self.least)


class Wise(OneLayerMethod):
    """Edits by side memories.

    Args:
        base: The frozen base model.
        seed: Of masks, prefixes and irrelevant prompts.
        settings: How memories are trained, merged and chosen.

    Attributes:
        memories: The side memories, the one that edits go into last.
    """

    def __init__(self, base: Base, seed: int = 0, settings: WiseSettings | None = None) -> None:
        """Begin without a memory; irrelevant prompts are read at the first edit."""
        self.settings = settings or WiseSettings()
        super().__init__(base, seed, self.settings.layer)
        self.generator = torch.Generator().manual_seed(seed)
        self.memories: list[SideMemory] = []
        self.mask: Tensor | None = None
        self.prefixes: list[str] = []
        self.irrelevant: list[Tensor] = []

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        if not self.prefixes:
            self.prefixes = write_prefixes(self.base, self.settings.n_prefixes, self.seed)
            self.irrelevant = self.read_keys(draw_irrelevant(self.base.tokenizer, N_IRRELEVANT, self.seed))
        for edit in edits:
            memory = self._open_shard()
            memory.keys.append(self._learn(memory, edit))
            memory.n_edits += 1
            if memory.n_edits >= self.settings.shard_edits:
                memory.measure()
                self._merge_shards()
        self.memories[-1].measure()

    @override
    def choose_change(self, prompts: Sequence[Tensor], padding: Side) -> Change | None:
        if not self.memories:
            return None
        keys = self.read_keys(prompts)
        activations = torch.stack([routing_activation(keys, memory.delta) for memory in self.memories])
        least = [self.settings.threshold_share * memory.least for memory in self.memories]
        chosen = choose_memories(activations, activations.new_tensor(least))
        return None if (chosen == MAIN).all() else add_memories([memory.delta for memory in self.memories], chosen)

    @override
    def state(self) -> dict[str, Tensor]:
        if not self.memories:
            return {"counts": torch.zeros(0, 2, dtype=torch.long)}
        return {
            "deltas": torch.stack([memory.delta for memory in self.memories]),
            "least": torch.tensor([memory.least for memory in self.memories], dtype=torch.float64),
            "counts": torch.tensor([[memory.n_edits, memory.merged] for memory in self.memories]),
        }

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        self.mask, self.memories = None, []
        if "deltas" not in state:
            return
        numbers = zip(state["deltas"], state["counts"].tolist(), state["least"].tolist(), strict=True)
        for delta, (n_edits, merged), least in numbers:
            self.memories.append(SideMemory(delta.to(self.base.model.device), n_edits, least, bool(merged)))

    def _open_shard(self) -> SideMemory:
        """The memory that edits go into; the first of a shard draws the mask."""
        architecture = self.base.architecture
        shape, device = (architecture.d_out, architecture.d_in), self.base.model.device
        if not self.memories or self.memories[-1].merged or self.memories[-1].n_edits >= self.settings.shard_edits:
            self.memories.append(SideMemory(torch.zeros(shape, device=device)))
            self.mask = None
        if self.mask is None:
            self.mask = (torch.rand(shape, generator=self.generator) < self.settings.mask_share).to(device)
        return self.memories[-1]

    def _learn(self, memory: SideMemory, edit: Edit) -> Tensor:
        """Learn an edit; returns what enters the projection of its plain prompt, `(length, d_in)`."""
        texts = [encode(self.base.tokenizer, prefix + edit.prompt, edit.target) for prefix in self.prefixes]
        keys, batch = self.read_keys([text.prompt for text in texts]), self.prepare(texts)
        delta, mask = memory.delta.clone().requires_grad_(), self.mask
        handle = delta.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
        rows = torch.zeros(len(texts), dtype=torch.long)

        def loss() -> Tensor:
            drawn = torch.randint(len(self.irrelevant), (len(texts),), generator=self.generator).tolist()
            inside = routing_activation(keys, delta)
            outside = routing_activation([self.irrelevant[index] for index in drawn], delta)
            margin = margin_loss(inside, outside, self.settings.margins)
            return self.changed_loss(batch, add_memories([delta], rows)) + margin

        optimizer = torch.optim.SGD([delta], lr=self.settings.learning_rate)
        bound = self.settings.bound
        limit = (self.settings.steps, self.settings.enough)
        self.descend(loss, optimizer, *limit, lambda: delta.data.clamp_(-bound, bound))
        handle.remove()
        memory.delta = delta.detach()
        return keys[0]

    def _merge_shards(self) -> None:
        """Merge, once there are enough shards."""
        shards = [memory for memory in self.memories if not memory.merged]
        if len(shards) < self.settings.merged_shards:
            return
        parts = shards if self.settings.retrieve else self.memories
        delta = merge_updates(torch.stack([part.delta for part in parts]), self.settings.density)
        merged = SideMemory(delta, sum(part.n_edits for part in parts), min(part.least for part in parts), merged=True)
        merged.keys = [key for part in parts for key in part.keys]
        merged.measure()
        self.memories = [one for one in self.memories if all(one is not part for part in parts)] + [merged]


def routing_activation(keys: Sequence[Tensor], delta: Tensor) -> Tensor:
    """`Δ_act` (1) of some prompts.

    Args:
        keys: `A(x)`, what enters the projection of each prompt, `(length, d_in)`.
        delta: `W′ − W`, `(d_out, d_in)`.

    Returns:
        `(prompts,)`.
    """
    products = functional.linear(torch.cat(list(keys)).float(), delta)  # (tokens, d_out)
    parts = torch.split(products, [len(key) for key in keys])
    return torch.stack([part.norm(dim=1).mean() for part in parts])


def margin_loss(inside: Tensor, outside: Tensor, margins: tuple[float, float, float]) -> Tensor:
    """`L_a` (2), a mean over pairs.

    Args:
        inside: `Δ_act(x_e)` of prompts of edits, `(pairs,)`.
        outside: `Δ_act(x_i)` of an irrelevant prompt beside each, `(pairs,)`.
        margins: `α`, `β` and `γ`.
    """
    alpha, beta, gamma = margins
    return ((outside - alpha).relu() + (beta - inside).relu() + (gamma - (inside - outside)).relu()).mean()


def choose_memories(activations: Tensor, thresholds: Tensor) -> Tensor:
    """The memory that each prompt is answered from, or `MAIN`, `(prompts,)`.

    Args:
        activations: `Δ_act` of each prompt in each memory, `(memories, prompts)`.
        thresholds: `ε` of each memory, `(memories,)`.
    """
    best, chosen = activations.where(activations > thresholds[:, None], -torch.inf).max(dim=0)
    return chosen.where(best > -torch.inf, MAIN)


def add_memories(deltas: Sequence[Tensor], chosen: Tensor) -> Change:
    """A change that answers each row from its memory.

    Args:
        deltas: `ΔW` of each memory, `(d_out, d_in)`.
        chosen: Memory of each row, or `MAIN`, `(rows,)`.
    """
    parts = [(delta, (chosen == index).nonzero()[:, 0]) for index, delta in enumerate(deltas)]

    def change(x: Tensor, y: Tensor, start: int) -> Tensor:
        for delta, rows in parts:
            if len(rows):
                y = y.index_add(0, rows.to(y.device), functional.linear(x[rows].float(), delta).to(y.dtype))
        return y

    return change
