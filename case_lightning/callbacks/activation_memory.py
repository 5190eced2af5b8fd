"""Knowledge activation regularisation as a callback: what a module answered before, it shall go on answering."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from case_lightning.callbacks.inference_mode import evaluating
from case_lightning.method.activation import activation_divergence, dequantize, quantize


class ActivationMemory(Callback):
    """Keeps eight-bit activations of past fits and adds their divergence to the gradient of new ones.

    The term is layer-local: the inputs kept are sent through the named module again, nothing below it is run. Its
    gradient is added once before each optimizer step, where gradients are unscaled, accumulated and averaged over
    processes, so the module's `training_step` stays as it is. List it before `SensitiveNeuronMask`, whose mask then
    covers this gradient too.

    What a fit adds is there once it has ended. A checkpoint written on the way, as by `ModelCheckpoint`, holds what the
    fits before it left; to go on with the next data from a file, write it after `fit`: `trainer.save_checkpoint`.

    Args:
        module: Name of the submodule whose outputs are held, one that works on the last axis of its first argument.
            Left empty only by subclasses that override `capture` and `recompute`.
        size: Rows to keep; a reservoir sample of all rows seen, so each has the same chance.
        weight: `λ` of the term.
        temperature: `T` of its softmax.
        seed: Seed of the reservoir.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self, module: str = "", size: int = 64, weight: float = 1.0, temperature: float = 1.0, seed: int = 0
    ) -> None:
        """Store the arguments; rows come with the first fit."""
        if size < 0 or weight < 0 or not temperature > 0:
            raise ValueError(
                f"size, weight and temperature: expected at least 0, at least 0 and more than 0, found {size}, "
                f"{weight} and {temperature}"
            )
        self.module = module
        self.size = size
        self.weight = weight
        self.temperature = temperature
        self.rows: dict[str, Tensor] = {}  # int8 inputs and outputs with their scales, and what `capture` adds
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._inputs: Tensor | None = None
        self._handle: RemovableHandle | None = None

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(module=self.module)

    def capture(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """New rows at the end of a fit: at least `inputs (rows, d_in)`, and whatever `recompute` needs beside them.

        This one keeps what entered the module in the last training batch of every process; override it to choose other
        rows. All processes of a distributed run must return the same.

        Raises:
            ValueError: No module was named.
        """
        if not self.module:
            raise ValueError(
                "ActivationMemory: no module named; give the name of the submodule to hold as `module`, or override "
                "capture and recompute"
            )
        parts = _gather(self._inputs, pl_module.trainer.world_size)
        return {"inputs": torch.cat(parts).to(pl_module.device)} if parts else {}

    def choose(self, pl_module: LightningModule) -> dict[str, Tensor]:
        """The kept rows that the coming step may move; this one takes all."""
        return self.rows

    def recompute(self, pl_module: LightningModule, rows: dict[str, Tensor]) -> Tensor:
        """What the module answers to kept rows now, `(rows, width)`, as at inference: without dropout."""
        module = pl_module.get_submodule(self.module)
        with evaluating(module.modules()):
            answer: Tensor = module(rows["inputs"].to(_find_dtype(module) or pl_module.dtype))
        return answer

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._inputs = None
        if self.module:
            module = dict(pl_module.named_modules()).get(self.module)
            if module is None:
                raise ValueError(
                    f"ActivationMemory: {self.module!r} is no submodule of {type(pl_module).__name__}; it has "
                    f"{', '.join(name for name, _ in pl_module.named_modules() if name)}"
                )

            def note_inputs(_: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                if trainer.training:
                    inputs = next(iter((*args, *kwargs.values())))
                    self._inputs = inputs.detach().reshape(-1, inputs.shape[-1])

            self._handle = module.register_forward_pre_hook(note_inputs, with_kwargs=True)

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.weight and len(self):
            term = self.weigh(pl_module)
            if term.requires_grad:  # not where the fit trains nothing that the rows go through
                term.backward()  # type: ignore[no-untyped-call]

    def weigh(self, pl_module: LightningModule) -> Tensor:
        """The weighted term, a scalar with a gradient."""
        rows = self._decode(self.choose(pl_module), pl_module.device)
        if not len(rows["inputs"]):
            return rows["outputs"].sum()
        noted = self._inputs
        new = self.recompute(pl_module, rows)
        self._inputs = noted  # the hook saw the rows pass
        return self.weight * activation_divergence(rows["outputs"], new, self.temperature)

    @override
    @torch.no_grad()
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # on_fit_end finds it on the CPU
        self._unhook()
        if self.size and (rows := self.capture(pl_module)):
            self._sample(self._encode(pl_module, rows))

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unhook()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._unhook()  # a fit that has nothing to train ends without on_train_end

    def __len__(self) -> int:
        """How many rows are kept."""
        return len(self.rows["inputs"]) if self.rows else 0

    def _unhook(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _encode(self, pl_module: LightningModule, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs, input_scales = quantize(rows["inputs"])
        # the answers to what is kept, not to what it was rounded from: replayed at once, they have not diverged
        answers = self.recompute(pl_module, rows | {"inputs": dequantize(inputs, input_scales)})
        outputs, output_scales = quantize(answers)
        coded = {"inputs": inputs, "input_scales": input_scales, "outputs": outputs, "output_scales": output_scales}
        return {name: value.cpu() for name, value in (rows | coded).items()}

    def _decode(self, coded: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        rows = {name: value.to(device) for name, value in coded.items()}
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
        return int(torch.randint(below, (1,), generator=self._generator, device="cpu"))

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rows": dict(self.rows), "seen": self.seen, "generator": self._generator.get_state()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = dict(state_dict["rows"])
        self.seen = int(state_dict["seen"])
        self._generator.set_state(state_dict["generator"])


def _find_dtype(module: torch.nn.Module) -> torch.dtype | None:
    """What a module computes in."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), None)


def _gather(rows: Tensor | None, world_size: int) -> list[Tensor]:
    """What every process has noted, in the order of their ranks."""
    found: list[Tensor | None] = [rows]
    if world_size > 1:
        found = [None] * world_size
        distributed.all_gather_object(found, None if rows is None else rows.cpu())
    return [part for part in found if part is not None]
