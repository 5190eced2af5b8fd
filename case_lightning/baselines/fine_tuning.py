"""Constrained fine-tuning of one down-projection: FT-M and FT-L.

With `W` the projection's weights in the base model and `(x, y)` the prompts and targets of a batch,

    min over ΔW of  −Σ_j log P_{W + ΔW}(y_j ∣ x, y_{<j})  subject to  ‖ΔW‖_∞ ≤ δ,                                (1)

by Adam, going on from the `ΔW` of the batches before and brought back into the bound after every step [1]. FT-M [3]
takes the loss as it stands in (1), over the target's tokens and no others. FT-L as published with [2] asks for all of
the target's tokens at the prompt's last token, which never sees the target:

    −Σ_j log P_{W + ΔW}(y_j ∣ x).                                                                                 (2)

The bound is on the distance from the pretrained weights, as in [1]; [3] leaves it off. `W` itself is never overwritten:
`ΔW x` is added to what the projection puts out, which is the same up to rounding.

References:
    [1] Zhu, Rawat, Zaheer, Bhojanapalli, Li, Yu, Kumar: Modifying memories in transformer models. 2020.
    [2] Meng, Bau, Andonian, Belinkov: Locating and editing factual associations in GPT. NeurIPS 2022.
    [3] Zhang et al.: A comprehensive study of knowledge editing for large language models. 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.changed_output import Change, add_product
from case_lightning.baselines.trained import OneLayerMethod
from case_lightning.data import Edit
from case_lightning.editing.answering import Side
from case_lightning.editing.batches import EditBatch
from case_lightning.editing.encoding import Encoded


@dataclass(frozen=True)
class FineTuningSettings:
    """How to fine-tune.

    Args:
        layer: The edited layer; by default the one that the package edits.
        objective: `target` for the loss (1) of FT-M, `last_token` for the loss (2) of FT-L.
        steps: Optimizer steps a batch, at most; 25 in [3].
        learning_rate: Of Adam; 5e-4 in [3].
        bound: `δ`; by default none, as in [3].
        enough: A loss below it ends a batch's steps.
    """

    layer: int | None = None
    objective: Literal["target", "last_token"] = "target"
    steps: int = 25
    learning_rate: float = 5e-4
    bound: float | None = None
    enough: float = 0.01


class FineTuning(OneLayerMethod):
    """Fine-tunes one down-projection.

    Args:
        base: The frozen base model.
        seed: Unused: nothing is random.
        settings: How to fine-tune.

    Attributes:
        delta: `ΔW`, `(d_out, d_in)`.
    """

    def __init__(self, base: Base, seed: int = 0, settings: FineTuningSettings | None = None) -> None:
        """Begin with no update."""
        self.settings = settings or FineTuningSettings()
        super().__init__(base, seed, self.settings.layer)
        architecture = base.architecture
        self.delta = torch.zeros(architecture.d_out, architecture.d_in, device=base.model.device)

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        texts = self.encode(edits)
        batch = self.prepare(texts)
        if self.settings.objective == "last_token":
            batch = ask_at_last_token(batch, texts)
        delta = self.delta.requires_grad_()
        optimizer = torch.optim.Adam([delta], lr=self.settings.learning_rate)
        change = _add(delta)
        self.descend(
            lambda: self.changed_loss(batch, change),
            optimizer,
            self.settings.steps,
            self.settings.enough,
            lambda: bound_update(delta, self.settings.bound),
        )
        delta.requires_grad_(False)

    @override
    def choose_change(self, prompts: Sequence[Tensor], padding: Side) -> Change:
        return _add(self.delta)

    @override
    def state(self) -> dict[str, Tensor]:
        return {"delta": self.delta.clone()}

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        self.delta.copy_(state["delta"])


def _add(delta: Tensor) -> Change:
    return lambda x, y, start: add_product(y, x, delta)


def ask_at_last_token(batch: EditBatch, texts: Sequence[Encoded]) -> EditBatch:
    """The batch with every label asked for at its prompt's last token, as in (2)."""
    columns = torch.cat([text.columns[:1].expand(len(text.labels)) for text in texts])
    return replace(batch, columns=columns.to(batch.columns.device))


@torch.no_grad()
def bound_update(delta: Tensor, bound: float | None) -> None:
    """Bring an update back into `‖ΔW‖_∞ ≤ δ`, in place."""
    if bound is not None:
        delta.clamp_(-bound, bound)
