"""The callbacks on a task that is not ours: handwritten digits, two new classes at a time.

    python examples/digits.py

prints the Markdown table of docs/digits.md. The stream is class-incremental, the harder reading: one head says all ten
digits, no image of an earlier task is seen again, and nobody tells the network which task a test image belongs to.
Beside it stands the easier one, task-incremental: the same networks, told which two digits it can be.
"""

import logging
import warnings
from collections.abc import Callable, Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from case_lightning.callbacks import ActivationMemory, ConflictAllocation, SensitiveNeuronMask
from case_lightning.method.allocation import Allocation
from case_lightning.method.conflict import OuterSum

PIXELS, HIDDEN, CLASSES = 64, 64, 10
TASKS = torch.arange(CLASSES).view(-1, 2)  # (tasks, classes a task): 0/1, 2/3, …
RANK, SUBSPACES = 8, 8
Task = tuple[Tensor, Tensor]  # images (n, PIXELS) from 0 to 1, labels (n,)


class TwoLayers(LightningModule):
    """A stock classifier; nothing in it knows of continual learning."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(PIXELS, HIDDEN)
        self.head = nn.Linear(HIDDEN, CLASSES)
        self.network = nn.Sequential(self.hidden, nn.ReLU(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Task, batch_idx: int) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.005)

    def answer(self, images: Tensor, among: Tensor) -> Tensor:
        """The likeliest of the classes `among` for each image, `(n,)`."""
        return among[self(images)[:, among].argmax(1)]


class Adapted(TwoLayers):
    """The same network, frozen as drawn, with low-rank adapters on its first layer as subspaces: it is `Allocatable`.

    One piece of knowledge is one task, so the coming fit has one example. A test image goes through the subspace of the
    class whose mean image is nearest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.down = nn.ParameterList(torch.randn(RANK, PIXELS) / PIXELS**0.5 for _ in range(SUBSPACES))
        self.up = nn.ParameterList(torch.zeros(HIDDEN, RANK) for _ in range(SUBSPACES))
        self.held: list[int] = []
        self.prototypes = torch.full((CLASSES, PIXELS), torch.inf)
        self.subspace_of = torch.zeros(CLASSES, dtype=torch.long)

    def forward(self, images: Tensor, subspaces: Tensor | None = None) -> Tensor:
        at = self.subspace_of[self.coming[1][:1]].expand(len(images)) if subspaces is None else subspaces
        down, up = torch.stack(list(self.down))[at], torch.stack(list(self.up))[at]  # (n, RANK, PIXELS), (n, HIDDEN, RANK)
        return self.head((self.hidden(images) + (up @ (down @ images[..., None]))[..., 0]).relu())

    def answer(self, images: Tensor, among: Tensor) -> Tensor:
        nearest = among[torch.cdist(images, self.prototypes[among]).argmin(1)]
        return among[self(images, self.subspace_of[nearest])[:, among].argmax(1)]

    def prepare(self, task: Task) -> None:
        """Meet the coming task before its fit."""
        self.coming = task
        for label in task[1].unique():
            self.prototypes[label] = task[0][task[1] == label].mean(0)

    def directions(self) -> list[OuterSum]:
        return [OuterSum.from_adapter(self.down[i].detach(), self.up[i].detach()) for i in range(len(self.held))]

    def members(self) -> list[int]:
        return list(self.held)

    def example_gradients(self) -> list[OuterSum]:
        images, labels = self.coming
        outputs = self.hidden(images).requires_grad_()
        loss = functional.cross_entropy(self.head(outputs.relu()), labels)
        return [OuterSum.from_gradient(torch.autograd.grad(loss, outputs)[0], images)]

    def assign(self, allocations: list[Allocation]) -> None:
        chosen = allocations[0].subspace
        self.held += [0] * (chosen + 1 - len(self.held))
        self.held[chosen] += 1
        self.subspace_of[self.coming[1]] = chosen
