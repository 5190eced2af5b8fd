"""Protection of past keys as a callback: what a module read in past fits, it goes on answering as it did."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from case_lightning.method.protection import KeyMoment, turn_away


class KeyProtection(Callback):
    """Turns each step's change of some linear maps away from the inputs that they had in past fits.

    After every optimizer step the change of a weight is replaced by one of the same length that moves the answers to
    past inputs less. Nothing of past data is shown again; of its inputs the second moment is kept. Columns that another
    callback holds still stay so, such as those that `SensitiveNeuronMask` freezes: list this one behind it.

    What a fit read counts once it has ended. A checkpoint written on the way, as by `ModelCheckpoint`, holds what the
    fits before it left; to go on with the next data from a file, write it after `fit`: `trainer.save_checkpoint`.

    Args:
        modules: Names of submodules such as `nn.Linear`, which work on the last axis of their first argument and have a
            `weight`, `(d_out, d_in)`. Left empty only by subclasses that override `weights`.
        strength: How much past answers weigh against the change; 0 turns it off.

    Raises:
        ValueError: The strength is negative or, when a fit starts, the module optimizes by itself.

    Example:
        >>> protection = KeyProtection(["hidden"], strength=0.1)
    """

    def __init__(self, modules: Sequence[str] = (), strength: float = 0.1) -> None:
        """Store the arguments; moments come with the first fit."""
        if not strength >= 0:
            raise ValueError(f"strength: expected at least 0, found {strength}")
        self.modules = list(modules)
        self.strength = strength
        self.moments: dict[str, KeyMoment] = {}  # of the inputs of past fits, by the name of the weight
        self._kept: dict[str, Tensor] = {}
        self._shields: dict[str, tuple[Tensor, Tensor]] = {}  # which columns move, and `P` for them
        self._read: dict[str, KeyMoment] = {}  # inputs of this fit, a step each
        self._handles: list[RemovableHandle] = []
        self._reading = False  # whether what passes a module is of the training step

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(modules=self.modules)

    def weights(self, pl_module: LightningModule) -> Mapping[str, Tensor]:
        """The protected weights, `(d_out, d_in)` each, by name.

        Raises:
            ValueError: `modules` names none, or something that is no linear map.
        """
        found: dict[str, Tensor] = {}
        modules = dict(pl_module.named_modules())
        for name in self.modules:
            weight = getattr(modules.get(name), "weight", None)
            if not isinstance(weight, nn.Parameter) or weight.dim() != 2:
                raise ValueError(
                    f"KeyProtection: {name!r} is no linear map of {type(pl_module).__name__}; name a submodule with a "
                    f"weight (d_out, d_in)"
                )
            found[f"{name}.weight"] = weight
        if not found:
            raise ValueError("KeyProtection: no module named; give the names of linear maps as `modules`")
        return found

    def learn(self, name: str, keys: Tensor) -> None:
        """Protect the answers of a weight to some inputs from now on.

        Args:
            name: Name of the weight.
            keys: Inputs of one piece of knowledge, `(keys, d_in)`.
        """
        if name not in self.moments:
            self.moments[name] = KeyMoment(keys.shape[-1], keys.device)
        self.moments[name].add(keys)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"KeyProtection: the training_step of {type(pl_module).__name__} optimizes by itself "
                f"(automatic_optimization is False), so which of its forward passes count is not known"
            )
        self._shields = {}
        for name, weight in self.weights(pl_module).items():
            if name in self.moments:  # of a checkpoint, or of a fit that ended on the CPU
                self.moments[name].to(weight.device)
            if self.modules:
                self._read[name] = KeyMoment(weight.shape[1], weight.device)
                hook = partial(self._note, self._read[name])
                module = pl_module.get_submodule(name.rpartition(".")[0])
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        known = self._known(pl_module)
        self._kept = {name: weight.detach().clone() for name, weight in known.items()}
        self._reading = True

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._reading = False

    @override
    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._reading = False
        for name, weight in self._known(pl_module).items():
            change = (weight - self._kept[name]).float()
            moving = change.any(0)
            if moving.any():
                turned = turn_away(change[:, moving], self._find_shield(name, moving))
                weight[:, moving] = (self._kept[name][:, moving] + turned).to(weight.dtype)

    @override
    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._unhook()
        for name, read in self._read.items():
            total = trainer.strategy.reduce(read.total / max(read.count, 1), reduce_op="sum")
            self.moments.setdefault(name, KeyMoment(len(total), total.device)).merge(total)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unhook()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._unhook()  # a fit that has nothing to train ends without on_train_end

    def _known(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """The weights whose past inputs are known."""
        weights = self.weights(pl_module) if self.strength else {}
        return {name: weight for name, weight in weights.items() if name in self.moments}

    def _find_shield(self, name: str, moving: Tensor) -> Tensor:
        found = self._shields.get(name)
        if found is None or not torch.equal(found[0], moving):
            self._shields[name] = found = moving, self.moments[name].shield(self.strength, moving)
        return found[1]

    def _note(self, read: KeyMoment, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        if self._reading:
            inputs = next(iter((*args, *kwargs.values())))
            read.add(inputs.detach().reshape(-1, inputs.shape[-1]))

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {name: {"total": one.total, "count": one.count} for name, one in self.moments.items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, state in state_dict.items():
            self.moments[name] = KeyMoment(len(state["total"]), state["total"].device)
            self.moments[name].merge(state["total"], int(state["count"]))
