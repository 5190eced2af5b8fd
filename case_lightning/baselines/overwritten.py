"""Methods that overwrite weights: the new values are held beside the model's own and put in their place while asked.

Outside of `answering` the base model is the unedited one, to the bit, because its own tensors are never written to.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.method import EditingMethod
from case_lightning.editing.answering import Side
from case_lightning.errors import BaseModelError, ConfigError

WEIGHT = "weight."  # before a projection's dotted name, in a method's state


class OverwrittenWeights:
    """New values for the weights of some linear projections of a model.

    Args:
        model: The base model.
        names: Dotted names of the projections.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """Begin with the model's own values.

        Raises:
            BaseModelError: A weight is quantised, so nothing can be added to it.
        """
        self.modules = {name: model.get_submodule(name) for name in names}
        self.parameters = {name: _find_weight(module, name) for name, module in self.modules.items()}
        self.edited = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._own = {name: parameter.data for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def add(self, name: str, update: Tensor) -> None:
        """Add `ΔW`, `(d_out, d_in)`, to a projection's new value; inside of `applied` the model sees it at once."""
        is_transposed = isinstance(self.modules[name], Conv1D)
        self.edited[name] += (update.T if is_transposed else update).to(self.edited[name])

    @contextmanager
    def applied(self, edited: bool = True) -> Iterator[None]:
        """Within this context the model has the new values, or its own; after it, those that it had before."""
        before = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            self._put(self.edited if edited else self._own)
            yield
        finally:
            self._put(before)

    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data = values[name]


class OverwritingMethod(EditingMethod):
    """An editing method whose whole effect is in overwritten weights.

    Args:
        base: The frozen base model.
        seed: Of everything random.
        names: Dotted names of the projections whose weights are overwritten.
    """

    def __init__(self, base: Base, seed: int, names: Sequence[str]) -> None:
        """Begin unedited."""
        super().__init__(base, seed)
        self.weights = OverwrittenWeights(base.model, names)

    @override
    def answering(
        self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right"
    ) -> AbstractContextManager[None]:
        return self.weights.applied(edited)

    @abstractmethod
    def progress(self) -> dict[str, Tensor]:
        """What answering does not need but the next edit does, by name."""

    @abstractmethod
    def load_progress(self, progress: dict[str, Tensor]) -> None:
        """Go on as the method did whose `progress` this is."""

    @override
    def state(self) -> dict[str, Tensor]:
        weights = {WEIGHT + name: value for name, value in self.weights.edited.items()}
        return {name: value.clone() for name, value in (weights | self.progress()).items()}

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        found = {name.removeprefix(WEIGHT) for name in state if name.startswith(WEIGHT)}
        if found != self.weights.edited.keys():
            raise ConfigError(
                f"this state overwrites {', '.join(sorted(found)) or 'nothing'}, this method "
                f"{', '.join(sorted(self.weights.edited))}; build the method with the settings it was saved with"
            )
        for name, value in self.weights.edited.items():
            value.copy_(state[WEIGHT + name])
        self.load_progress({name: value for name, value in state.items() if not name.startswith(WEIGHT)})


def _find_weight(module: nn.Module, name: str) -> nn.Parameter:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point() or weight.dim() != 2:
        raise BaseModelError(
            f"{name} ({type(module).__name__}) has no plain floating-point weight to overwrite; load the base model "
            f"without quantisation"
        )
    return weight
