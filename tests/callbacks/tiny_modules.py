"""Stock LightningModules of a few dozen parameters, and the fit that every test of a callback runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from case_lightning.method.allocation import Allocation
from case_lightning.method.conflict import OuterSum

D_IN, HIDDEN, D_OUT = 6, 8, 3
Optimizers = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def plain_sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def draw_batch(seed: int, rows: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, D_IN, generator=generator), torch.randn(rows, D_OUT, generator=generator)


class TwoLayers(LightningModule):
    """A regression net; its batch is a pair `(inputs, targets)`."""

    def __init__(self, optimizer: Optimizers = plain_sgd, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Linear(D_IN, HIDDEN)
            self.head = nn.Linear(HIDDEN, D_OUT)
            self.idle = nn.Parameter(torch.ones(4))  # of no use, so without a gradient
        self.optimizer = optimizer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(inputs).tanh())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss = functional.mse_loss(self(inputs), targets)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(list(self.parameters()))


class LowRank(nn.Module):
    """One subspace: an adapter beside a frozen layer."""

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, D_IN, generator=torch.Generator().manual_seed(0)) / D_IN**0.5)
        self.up = nn.Parameter(torch.zeros(D_OUT, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.down.T @ self.up.T


class Adapted(LightningModule):
    """A frozen layer with a growing list of adapters; it is `Allocatable`, and knows no callback.

    `coming` holds the examples of the next fit, `(inputs, targets)`, a row each.
    """

    def __init__(self, coming: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.frozen = nn.Linear(D_IN, D_OUT, bias=False).requires_grad_(False)
        nn.init.zeros_(self.frozen.weight)
        self.subspaces = nn.ModuleList()
        self.coming = coming
        self.counts: list[int] = []
        self.routes: list[int] = []

    def directions(self) -> list[OuterSum]:
        return [OuterSum.from_adapter(one.down.detach(), one.up.detach()) for one in self.subspaces]

    def members(self) -> list[int]:
        return list(self.counts)

    def example_gradients(self) -> list[OuterSum]:
        found = []
        for x, y in zip(*self.coming, strict=True):
            output = self.frozen(x[None]).requires_grad_()
            (delta,) = torch.autograd.grad((output - y).square().sum(), [output])
            found.append(OuterSum.from_gradient(delta, x[None]))
        return found

    def assign(self, allocations: list[Allocation]) -> None:
        self.routes = [allocation.subspace for allocation in allocations]
        for route in self.routes:
            while route >= len(self.subspaces):
                self.subspaces.append(LowRank())
                self.counts.append(0)
            self.counts[route] += 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        edited = [self.subspaces[route](x[None]) for route, x in zip(self.routes, inputs, strict=False)]
        return functional.mse_loss(self.frozen(inputs) + torch.cat(edited), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.subspaces.parameters(), lr=0.05)


def make_trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_epochs": 1, "num_sanity_val_steps": 0} | settings,
    )


def load(batches: Sequence[Any]) -> DataLoader:
    return DataLoader(list(batches), batch_size=None)


def fit(module: LightningModule, batches: Sequence[Any], *callbacks: Callback, **settings: Any) -> Trainer:
    trainer = make_trainer(*callbacks, **settings)
    trainer.fit(module, load(batches))
    return trainer


def fit_again(trainer: Trainer, module: LightningModule, batches: Sequence[Any]) -> None:
    trainer.fit_loop.max_epochs = trainer.current_epoch + 1
    trainer.fit(module, load(batches))


def copy_parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def moved(before: Tensor, after: Tensor) -> Tensor:
    """Where a parameter differs by so much as a bit."""
    return before.view(torch.int32) != after.detach().view(torch.int32)
