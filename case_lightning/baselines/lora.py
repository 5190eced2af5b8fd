"""One low-rank adapter, trained on every batch of edits in turn.

Each target projection `W` of every layer gets an update of rank `r` [1],

    h = W x + (α / r) · B A x,                                                                                    (1)

with `B` zero at first. A batch of edits `(x, y)` is learned by Adam on `−Σ_j log P(y_j ∣ x, y_{<j})`, going on from the
`A` and `B` of the batches before: nothing keeps those from being overwritten, which is what makes this the plainest
peer. The adapter is PEFT's own, and so are the projections that it goes to unless others are named.

References:
    [1] Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: LoRA: low-rank adaptation of large language models. ICLR
        2022.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.trained import TrainedMethod
from case_lightning.data import Edit
from case_lightning.editing.answering import Side


@dataclass(frozen=True)
class LoraSettings:
    """How to train the adapter.

    Args:
        first_layer: The lowest layer that has the adapter; what is below is frozen and run once an edit.
        rank: `r`.
        alpha: `α`.
        target_modules: Names of the projections that have it; by default those that PEFT knows for the model, which are
            the query and value projections of most.
        steps: Optimizer steps a batch, at most.
        learning_rate: Of Adam; of 1e-4, 2e-4, 3e-4 and 1e-3 the best for twenty ZsRE edits of a 135M model.
        enough: A loss below it ends a batch's steps.
    """

    first_layer: int = 0
    rank: int = 8
    alpha: int = 32
    target_modules: tuple[str, ...] | None = None
    steps: int = 25
    learning_rate: float = 3e-4
    enough: float = 0.01


class Lora(TrainedMethod):
    """Trains one LoRA throughout.

    Args:
        base: The frozen base model, which gets the adapter put into it.
        seed: Of the adapter's first values.
        settings: How to train it.
    """

    def __init__(self, base: Base, seed: int = 0, settings: LoraSettings | None = None) -> None:
        """Put a fresh adapter on the base model and switch it off."""
        self.settings = settings or LoraSettings()
        first = base.architecture.check_layer(self.settings.first_layer)
        self.peft_model = _put_lora(base, seed, self.settings, first)
        layers = [module for module in self.peft_model.modules() if isinstance(module, LoraLayer)]
        factors = [factor for layer in layers for factor in (layer.lora_A, layer.lora_B)]
        super().__init__(base, seed, first, factors)
        self.parameters = [parameter for factor in factors for parameter in factor.parameters()]
        self._switch(on=False)

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        batch = self.prepare(self.encode(edits))
        for parameter in self.parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.Adam(self.parameters, lr=self.settings.learning_rate)
        self.descend(lambda: self.loss(batch), optimizer, self.settings.steps, self.settings.enough)
        self._switch(on=False)

    @override
    @contextmanager
    def answering(self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right") -> Iterator[None]:
        self._switch(on=edited)
        try:
            yield
        finally:
            self._switch(on=False)

    @override
    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in get_peft_model_state_dict(self.peft_model).items()}

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.peft_model, state)

    def _switch(self, on: bool) -> None:
        """Have the base model answer with the adapter, or without; the suffix always has it."""
        tuner = cast(LoraModel, self.peft_model.base_model)
        if on:
            tuner.enable_adapter_layers()
        else:
            tuner.disable_adapter_layers()


def _put_lora(base: Base, seed: int, settings: LoraSettings, first: int) -> PeftModel:
    """Put a fresh adapter on the layers from `first` on."""
    names = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=None if names is None else list(names),
        layers_to_transform=list(range(first, base.architecture.n_layers)),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(cast(nn.Module, base.model), config)
    return cast(PeftModel, model)
