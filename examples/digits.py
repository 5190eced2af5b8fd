"""The callbacks on a task that is not ours: handwritten digits, two new classes at a time.

    python examples/digits.py

prints the table of docs/digits.md. The stream is class-incremental, its hardest reading: one head says all ten digits,
and nobody tells which task a test image is from. Beside it, the easiest, task-incremental: told which two it can be.
"""
# ruff: noqa: D102, D107 - Lightning's hooks and the protocol's methods are documented where they are declared

import logging
import warnings
from collections.abc import Callable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn import datasets, utils
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from case_lightning.callbacks import ActivationMemory, ConflictAllocation, KeyProtection, SensitiveNeuronMask
from case_lightning.method.allocation import Allocation
from case_lightning.method.conflict import OuterSum

PIXELS, HIDDEN, CLASSES, TASKS, TEST_IMAGES = 64, 64, 10, 5, 80  # of each task the last 80 images are for testing
SUBSPACES, RANK, EPOCHS, SEEDS = 8, 8, 20, range(5)
Task = tuple[Tensor, Tensor]  # images (n, PIXELS) from 0 to 1, labels (n,)


class TwoLayers(LightningModule):
    """A stock classifier; nothing in it knows of continual learning."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Task, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.005)

    def answer(self, images: Tensor, among: Tensor) -> Tensor:
        """The likeliest of the classes `among` for each image, `(n,)`."""
        return among[self(images)[:, among].argmax(1)]


class Adapted(TwoLayers):
    """The same network, frozen as drawn, with low-rank adapters of its first layer as subspaces: it is `Allocatable`.

    One piece of knowledge is one task, `coming`, so a fit has one example. A test image goes through the subspace that
    learned the class whose mean image is nearest; if the network is not `asked`, that class is the answer.
    """

    def __init__(self, asked: bool = True) -> None:
        super().__init__()
        self.asked = asked
        self.requires_grad_(False)
        self.down = nn.ParameterList(torch.randn(RANK, PIXELS) / PIXELS**0.5 for _ in range(SUBSPACES))
        self.up = nn.ParameterList(torch.zeros(HIDDEN, RANK) for _ in range(SUBSPACES))
        self.homes: list[int] = []  # the subspace of each task so far
        self.subspace_of = torch.zeros(CLASSES, dtype=torch.long)
        self.mean_images = torch.zeros(CLASSES, PIXELS)

    def forward(self, images: Tensor, at: Tensor | None = None) -> Tensor:
        at = torch.tensor(self.homes[-1:]).expand(len(images)) if at is None else at
        down, up = torch.stack(list(self.down))[at], torch.stack(list(self.up))[at]  # one pair an image
        return self.network[1:](self.network[0](images) + (up @ (down @ images[..., None])).squeeze(-1))

    def answer(self, images: Tensor, among: Tensor) -> Tensor:
        nearest = among[torch.cdist(images, self.mean_images[among]).argmin(1)]
        return among[self(images, self.subspace_of[nearest])[:, among].argmax(1)] if self.asked else nearest

    def directions(self) -> list[OuterSum]:
        return [OuterSum.from_adapter(self.down[i].detach(), self.up[i].detach()) for i in range(len(self.members()))]

    def members(self) -> list[int]:
        return [self.homes.count(index) for index in range(len(set(self.homes)))]

    def example_gradients(self) -> list[OuterSum]:
        images, labels = self.coming
        outputs = self.network[0](images).requires_grad_()  # a new subspace adds nothing yet
        (delta,) = torch.autograd.grad(nn.functional.cross_entropy(self.network[1:](outputs), labels), outputs)
        return [OuterSum.from_gradient(delta, images)]

    def assign(self, allocations: list[Allocation]) -> None:
        self.homes.append(allocations[0].subspace)
        for label in self.coming[1].unique():
            self.subspace_of[label] = self.homes[-1]
            self.mean_images[label] = self.coming[0][self.coming[1] == label].mean(0)


HIDDEN_LAYER = {"network.0.weight": 0, "network.0.bias": 0}  # the axis of each parameter along which its neurons lie
LAYERS = ["network.0", "network.2"]
ADAPTERS = {f"up.{index}": 0 for index in range(SUBSPACES)}
METHODS: dict[str, Callable[[], tuple[TwoLayers, list[Callback]]]] = {
    "nothing": lambda: (TwoLayers(), []),
    "KNT": lambda: (TwoLayers(), [SensitiveNeuronMask(HIDDEN_LAYER)]),
    "ActivationMemory, hidden layer": lambda: (TwoLayers(), [ActivationMemory("network.0", weight=10_000)]),
    "ActivationMemory, whole network": lambda: (TwoLayers(), [ActivationMemory("network", weight=100)]),
    "KeyProtection, both layers": lambda: (TwoLayers(), [KeyProtection(LAYERS, strength=1)]),
    "adapters, one subspace": lambda: (Adapted(), [ConflictAllocation("centred", threshold=-1)]),
    "adapters, a subspace a task": lambda: (Adapted(), [ConflictAllocation("centred", threshold=2)]),
    "CAA, published score": lambda: (Adapted(), [ConflictAllocation("raw")]),
    "CAA, members' score": lambda: (Adapted(), [ConflictAllocation("members")]),
    "CAA, centred score": lambda: (Adapted(), [ConflictAllocation("centred")]),
    "CAA, centred, threshold 0.2": lambda: (Adapted(), [ConflictAllocation("centred", threshold=0.2)]),
    "KNT + CAA": lambda: (Adapted(), [ConflictAllocation("centred"), SensitiveNeuronMask(ADAPTERS)]),
    "nearest mean image": lambda: (Adapted(asked=False), [ConflictAllocation("centred")]),
    "joint training": lambda: (TwoLayers(), []),
}


def load_tasks(seed: int, laps: int = 1) -> tuple[list[Task], list[Task]]:
    """The stream of training tasks and the test images of each; in two laps every task comes twice, in other images."""
    images, labels = map(torch.as_tensor, utils.shuffle(*datasets.load_digits(return_X_y=True), random_state=seed))
    tasks = [(images[labels // 2 == task].float() / 16, labels[labels // 2 == task]) for task in range(TASKS)]
    train = [(x[lap:-TEST_IMAGES:laps], y[lap:-TEST_IMAGES:laps]) for lap in range(laps) for x, y in tasks]
    return train, [(x[-TEST_IMAGES:], y[-TEST_IMAGES:]) for x, y in tasks]


def learn(module: TwoLayers, callbacks: list[Callback], train: list[Task], test: list[Task], epochs: int) -> Tensor:
    """One fit a task; the accuracy on each task after each fit, the task unknown and known, `(fits, tasks, 2)`."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    accuracies = torch.zeros(len(train), len(test), 2)
    for fit, task in enumerate(train):
        module.coming = task  # only `Adapted` looks at it
        trainer = Trainer(max_epochs=epochs, callbacks=callbacks, accelerator="cpu", **quiet)
        trainer.fit(module, DataLoader(TensorDataset(*task), batch_size=32, shuffle=True))
        seen = torch.cat([labels for _, labels in train[: fit + 1]]).unique()
        for index, (images, labels) in enumerate(test[: len(seen) // 2]):
            for kind, among in enumerate((seen, labels.unique())):
                accuracies[fit, index, kind] = (module.answer(images, among) == labels).float().mean()
    return accuracies


def run(method: str, seed: int, epochs: int = EPOCHS) -> tuple[Tensor, Tensor]:
    """Mean accuracy after the last task; mean fall from the best so far, all tasks but the last; each as in `learn`."""
    seed_everything(seed, verbose=False)
    train, test = load_tasks(seed)
    if method == "joint training":
        train = [tuple(map(torch.cat, zip(*train, strict=True)))]
    accuracies = learn(*METHODS[method](), train, test, epochs)
    return accuracies[-1].mean(0), (accuracies.amax(0) - accuracies[-1])[:-1].mean(0)


def main() -> None:
    """Print the table."""
    print("| method | accuracy | forgetting | accuracy, task known | forgetting, task known |\n|---|---|---|---|---|")
    for method in METHODS:
        found = torch.stack([torch.stack(run(method, seed)).T.flatten() for seed in SEEDS])  # (seeds, 4)
        cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(found.mean(0), found.std(0), strict=True)]
        print("|", " | ".join([method, *cells]), "|", flush=True)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
