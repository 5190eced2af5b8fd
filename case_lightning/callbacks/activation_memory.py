"""Knowledge activation regularisation as a callback: what a module answered before, it shall go on answering."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from case_lightning.method.activation import activation_divergence, dequantize, quantize


class ActivationMemory(Callback):
    """Keeps eight-bit activations of past fits and adds their divergence to the gradient of new ones.

    The term is layer-local: the inputs kept are sent through the named module again, nothing below it is run. It is
    added after the backward pass of the loss, so the module's `training_step` stays as it is.

    Args:
        module: Name of the submodule whose outputs are held.
        size: Rows to keep; a reservoir sample of all rows seen, so each has the same chance.
        weight: `λ` of the term.
        temperature: `T` of its softmax.
        seed: Seed of the reservoir.
    """

    def __init__(
        self, module: str = "", size: int = 64, weight: float = 1.0, temperature: float = 1.0, seed: int = 0
    ) -> None:
        self.module = module
        self.size = size
        self.weight = weight
        self.temperature = temperature
        self.rows: dict[str, Tensor] = {}  # int8 inputs and outputs with their scales, and what `capture` adds
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs: Tensor | None = None

    def capture(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """New rows at the end of a fit: at least `inputs (rows, d_in)`, of whatever `recompute` needs.

        This one keeps what entered the module in the last training batch; override it to choose other rows.
        """
        return {} if self._inputs is None else {"inputs": self._inputs}

    def recompute(self, pl_module: LightningModule, rows: dict[str, Tensor]) -> Tensor:
        """What the module answers to kept rows now, `(rows, width)`."""
        answer: Tensor = pl_module.get_submodule(self.module)(rows["inputs"])
        return answer

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.module:
            found = pl_module.get_submodule(self.module)
            self._handle = found.register_forward_pre_hook(self._note_inputs)

    def _note_inputs(self, module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if not getattr(self, "_replaying", False):
            self._inputs = args[0].detach()

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.weight and len(self):
            self.weigh(pl_module).backward()  # type: ignore[no-untyped-call]

    def weigh(self, pl_module: LightningModule) -> Tensor:
        """The weighted term, a scalar with a gradient."""
        rows = self._decode(pl_module.device)
        self._replaying = True
        new = self.recompute(pl_module, rows)
        self._replaying = False
        return self.weight * activation_divergence(rows["outputs"], new, self.temperature)

    @override
    @torch.no_grad()
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if handle := getattr(self, "_handle", None):
            handle.remove()
        if self.size and (rows := self.capture(pl_module)):
            self._replaying = True
            rows = rows | {"outputs": self.recompute(pl_module, rows)}
            self._replaying = False
            self._sample(self._encode(rows))

    def __len__(self) -> int:
        return len(self.rows["inputs"]) if self.rows else 0

    def _encode(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        coded = {name: value.cpu() for name, value in rows.items() if name not in ("inputs", "outputs")}
        for name, scales in (("inputs", "input_scales"), ("outputs", "output_scales")):
            coded[name], coded[scales] = (part.cpu() for part in quantize(rows[name]))
        return coded

    def _decode(self, device: torch.device) -> dict[str, Tensor]:
        rows = {name: value.to(device) for name, value in self.rows.items()}
        rows["inputs"] = dequantize(rows["inputs"], rows.pop("input_scales"))
        rows["outputs"] = dequantize(rows["outputs"], rows.pop("output_scales"))
        return rows

    def _sample(self, new: dict[str, Tensor]) -> None:
        """Reservoir sampling (Vitter's algorithm R)."""
        self.rows = self.rows or {name: value[:0] for name, value in new.items()}
        for index in range(len(new["inputs"])):
            self.seen += 1
            place = len(self) if len(self) < self.size else self._draw(self.seen)
            if place < self.size:
                for name, value in new.items():
                    kept = self.rows[name]
                    self.rows[name] = torch.cat([kept[:place], value[index : index + 1], kept[place + 1 :]])

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self._generator))

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": dict(self.rows), "seen": self.seen, "generator": self._generator.get_state()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = dict(state_dict["rows"])
        self.seen = int(state_dict["seen"])
        self._generator.set_state(state_dict["generator"])
