"""KNT as a callback: only the neurons that the new knowledge depends on are tuned."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from typing_extensions import override

from case_lightning.callbacks.inference_mode import evaluating
from case_lightning.method.mask_summary import MaskSummary, summarize_mask
from case_lightning.method.sensitivity import keep_most_sensitive, sum_fisher

Batch: TypeAlias = Any  # whatever the training data loader yields; a `measure` of one's own may ask for less


class SensitiveNeuronMask(Callback):
    """Freezes, for the length of one fit, all but the most sensitive neurons of some parameters.

    At the first batch of a fit the Fisher information of each neuron is measured, summed over the processes of a
    distributed run, and a mask drawn from it; a fit resumed from a checkpoint draws it anew. The mask
    multiplies gradients in place before every optimizer step, and masked neurons are set back after it, so that they do
    not move by one bit: not by momentum, not by weight decay.

    Args:
        neurons: Parameter name to the axis along which its neurons lie.
        rule: From sensitivities `(neurons,)` to a boolean mask; by default the entropy rule.

    Example:
        >>> mask = SensitiveNeuronMask({"hidden.weight": 0, "hidden.bias": 0})
    """

    def __init__(
        self, neurons: Mapping[str, int] | None = None, rule: Callable[[Tensor], Tensor] = keep_most_sensitive
    ) -> None:
        """Store the arguments; masks come with the first batch of a fit."""
        self.neurons = dict(neurons or {})
        self.rule = rule
        self.masks: dict[str, Tensor] = {}  # parameter name to which of its neurons are tuned, (neurons,)
        self.sensitivities: dict[str, Tensor] = {}  # and to what the mask was drawn from, (neurons,)
        self._kept: dict[str, Tensor] = {}

    def measure(self, pl_module: LightningModule, batch: Batch) -> dict[str, Tensor]:
        """The sensitivity of each neuron, `(neurons,)` for each parameter; override it where there is a shorter way.

        This one asks the module's `training_step` for the loss of one example at a time, so what that counts or logs
        is counted once more; normalization layers use their running statistics and do not update them. It takes a batch
        that is a tensor, or a tuple, list or dict of tensors, whose first axis is the example.

        Raises:
            ValueError: `neurons` names no parameter of the module, an example has no loss, or the module optimizes by
                itself.
            TypeError: The batch is of another kind.
        """
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"SensitiveNeuronMask: the training_step of {type(pl_module).__name__} optimizes by itself "
                f"(automatic_optimization is False); override SensitiveNeuronMask.measure"
            )
        parameters = dict(pl_module.named_parameters())
        if not self.neurons or not self.neurons.keys() <= parameters.keys():
            raise ValueError(
                f"SensitiveNeuronMask: expected neurons to name parameters of {type(pl_module).__name__}, found "
                f"{sorted(self.neurons)}; it has {', '.join(parameters)}"
            )
        sizes = {name: parameters[name].shape[dim] for name, dim in self.neurons.items()}
        totals = {name: torch.zeros(size, device=parameters[name].device) for name, size in sizes.items()}
        tuned = {name: parameters[name] for name in self.neurons if parameters[name].requires_grad}
        place = (0,) if is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2) else ()
        norms = (one for one in pl_module.modules() if isinstance(one, _NormBase))
        with evaluating(norms):  # the statistics of one example say nothing
            for example in _split(batch):
                loss = _loss(pl_module.training_step(example, *place))
                found = torch.autograd.grad(loss, list(tuned.values()), allow_unused=True) if tuned else ()
                by_name = dict(zip(tuned, found, strict=True))
                for name, gradient in by_name.items():
                    if gradient is not None:
                        totals[name] = totals[name] + sum_fisher([gradient], self.neurons[name])
        return totals

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.masks, self.sensitivities = {}, {}

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.masks:
            for name, found in self.measure(pl_module, batch).items():
                # gradients come averaged over processes, so all of them need one mask
                self.sensitivities[name] = trainer.strategy.reduce(found, reduce_op="sum")
                self.masks[name] = self.rule(self.sensitivities[name])
        self._kept = {name: parameter.detach().clone() for name, parameter, _ in self._masked(pl_module)}

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for _, parameter, mask in self._masked(pl_module):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~mask, 0)

    @override
    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, parameter, mask in self._masked(pl_module):
            parameter.copy_(torch.where(mask, parameter, self._kept[name]))

    def summarize(self) -> list[MaskSummary]:
        """The masks of the last fit, summed up."""
        return [summarize_mask(name, found, self.masks[name]) for name, found in self.sensitivities.items()]

    def _masked(self, pl_module: LightningModule) -> list[tuple[str, nn.Parameter, Tensor]]:
        """Each masked parameter with its mask, shaped to broadcast against it."""
        parameters = dict(pl_module.named_parameters())
        return [
            (name, parameters[name], _align(mask, parameters[name], self.neurons[name]))
            for name, mask in self.masks.items()
        ]


def _align(mask: Tensor, parameter: Tensor, dim: int) -> Tensor:
    shape = [1] * parameter.dim()
    shape[dim] = -1
    return mask.to(parameter.device).view(shape)


def _loss(outcome: STEP_OUTPUT) -> Tensor:
    if outcome is None:
        raise ValueError("training_step gave no loss for an example; override SensitiveNeuronMask.measure")
    loss: Tensor = outcome["loss"] if isinstance(outcome, Mapping) else outcome
    return loss


def _split(batch: Batch) -> list[Batch]:
    """The examples of a batch, each still with a batch axis."""
    if isinstance(batch, Tensor):
        return [batch[index : index + 1] for index in range(len(batch))]
    if isinstance(batch, Mapping):
        return [dict(zip(batch, values, strict=True)) for values in _split(tuple(batch.values()))]
    if isinstance(batch, tuple | list):
        make = getattr(batch, "_make", type(batch))  # of a named tuple
        return [make(values) for values in zip(*map(_split, batch), strict=True)]
    raise TypeError(
        f"batch: expected a tensor, or a tuple, list or dict of tensors, found {type(batch).__name__}; override "
        f"SensitiveNeuronMask.measure to take it apart"
    )
