"""An editable model that is asked, whatever the method that edits it; and ours, which routes each prompt."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, cast

import torch
from peft import PeftModel
from torch import Tensor, nn

from case_lightning.base import Base
from case_lightning.subspace import UNEDITED, CaseModel
from case_lightning.subspace.held import Routes

Side = Literal["left", "right"]


class Answering(Protocol):
    """A language model that answers edited or unedited."""

    base: Base

    @property
    def model(self) -> nn.Module:
        """The model to call `generate` on, inside of `answering`."""

    def answering(
        self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right"
    ) -> AbstractContextManager[None]:
        """Within this context the base model's forward and `generate` answer as the edited, or as the unedited model.

        What a method decides for each prompt, such as the memory that it is answered from, it decides at the start,
        from the prompt alone, and holds to the end.

        Args:
            prompts: Token ids of each row's prompt, in order; in a teacher-forced row the answer follows.
            edited: Whether to answer as the edited model.
            padding: On which side the rows will be padded to one width.
        """


class RoutedModel:
    """A base model with an adapter of ours.

    Args:
        base: The base model.
        model: The same with its adapter.
    """

    def __init__(self, base: Base, model: PeftModel) -> None:
        """Store the arguments."""
        self.base, self.model = base, model
        self.tuner = cast(CaseModel, model.base_model)

    def route(self, prompts: Sequence[Tensor]) -> Tensor:
        """The subspace of each prompt alone or `UNEDITED`, `(prompts,)`."""
        return self.locate(prompts).subspaces

    def locate(self, prompts: Sequence[Tensor]) -> Routes:
        """The same with where in each it begins to act."""
        if not len(self.tuner.case_layer.adapter.keys):
            return _leave_unedited(len(prompts))
        return self.tuner.router.locate_each(prompts)

    def answering(
        self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right"
    ) -> AbstractContextManager[None]:
        """See `Answering`; `generate` gets the prompts alone, so there the model routes them itself."""
        if edited and padding == "left":
            return nullcontext()
        routes = self.locate(prompts) if edited else _leave_unedited(len(prompts))
        device = self.base.model.device
        return self.tuner.forced_routes(routes.subspaces.to(device), routes.starts.to(device))


def _leave_unedited(count: int) -> Routes:
    return Routes(torch.full((count,), UNEDITED), torch.zeros(count, dtype=torch.long))
