"""What a comparison asks of a method: edit a batch, answer edited or not, save, load."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from case_lightning.base import Base
from case_lightning.data import Edit
from case_lightning.editing.answering import Side

FILE = "state.safetensors"


class EditingMethod(ABC):
    """A way to edit a language model.

    Args:
        base: The frozen base model. A method that overwrites weights overwrites this model's.
        seed: Of everything random.

    Attributes:
        n_steps: Optimizer steps taken so far.
    """

    def __init__(self, base: Base, seed: int = 0) -> None:
        """Store the arguments."""
        self.base, self.seed, self.n_steps = base, seed, 0

    @property
    def model(self) -> nn.Module:
        """The model to call `generate` on, inside of `answering`."""
        return self.base.model

    @abstractmethod
    def edit(self, edits: Sequence[Edit]) -> None:
        """Write one batch of edits into the model, after those before it."""

    @abstractmethod
    def answering(
        self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right"
    ) -> AbstractContextManager[None]:
        """Answer as the edited, or as the unedited model: see `Answering`."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that has to be stored beside the base model, by name; further edits do not change it."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Answer as the method did whose `state` this is; the base model is unedited before."""

    def save(self, folder: Path) -> None:
        """Write `state` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.state().items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read it back.

        Raises:
            FileNotFoundError: Nothing was saved there.
        """
        self.load_state(load_file(folder / FILE))
