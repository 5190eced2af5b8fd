"""What methods share that train something: states from the frozen prefix, a loss through the suffix, the descent."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.base.partial import read_inputs
from case_lightning.base.suffix import Prefix, Suffix, choose_attention, choose_dtype
from case_lightning.baselines.changed_output import Change, changed_output
from case_lightning.baselines.method import EditingMethod
from case_lightning.data import Edit
from case_lightning.editing.answering import Side
from case_lightning.editing.batches import EditBatch, PreparedEdit, PreparedText, collate
from case_lightning.editing.encoding import Encoded, encode
from case_lightning.editing.loss import label_loss


class TrainedMethod(EditingMethod):
    """A method that trains something in or above one layer.

    What is below is frozen, so it runs once an edit; only positions that carry a label go through the output head; and
    steps run in the dtype that the processor is fast in.

    Args:
        base: The frozen base model.
        seed: Of everything random.
        layer: The lowest layer that is not frozen; by default the one that the package edits.
        shared: Modules of the base model that are trained.
    """

    def __init__(self, base: Base, seed: int, layer: int | None, shared: Sequence[nn.Module] = ()) -> None:
        """Build the prefix and the suffix."""
        super().__init__(base, seed)
        architecture = base.architecture
        self.layer = architecture.check_layer(architecture.default_layer if layer is None else layer)
        self.prefix = Prefix(base.model, architecture, self.layer)
        dtype, attention = choose_dtype("auto", base.model), choose_attention(base.model)
        self.suffix = Suffix(base.model, architecture, self.layer, dtype, shared, attention)

    def encode(self, edits: Sequence[Edit]) -> list[Encoded]:
        """Each edit's prompt with its target."""
        return [encode(self.base.tokenizer, edit.prompt, edit.target) for edit in edits]

    def prepare(self, texts: Sequence[Encoded]) -> EditBatch:
        """Run the frozen prefix and pad what comes out into a batch in which each text weighs the same."""
        states = self.prefix([text.tokens for text in texts])
        return collate([PreparedEdit(PreparedText(text, state)) for text, state in zip(texts, states, strict=True)])

    def loss(self, batch: EditBatch) -> Tensor:
        """Mean negative log-likelihood of the batch's labels, each text weighing the same."""
        logits = self.suffix(batch.states, batch.rows, batch.columns)
        return (label_loss(logits, batch.labels) * batch.weights).sum()

    def descend(
        self,
        loss: Callable[[], Tensor],
        optimizer: torch.optim.Optimizer,
        steps: int,
        enough: float = 0.0,
        after_step: Callable[[], Any] = lambda: None,
    ) -> None:
        """Take optimizer steps, until a loss is small enough or there were as many as there may be.

        Args:
            loss: What to make small.
            optimizer: Of the parameters that may change.
            steps: At most.
            enough: A loss below it ends the descent.
            after_step: Called after every step, to hold the parameters within their bounds.
        """
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                value = loss()
                if value.item() < enough:
                    return
                value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            after_step()
            self.n_steps += 1


class OneLayerMethod(TrainedMethod):
    """A method that edits the down-projection of one layer, by changing what it puts out.

    Args:
        base: The frozen base model.
        seed: Of everything random.
        layer: The layer; by default the one that the package edits.

    Attributes:
        projection: The down-projection.
    """

    def __init__(self, base: Base, seed: int, layer: int | None) -> None:
        """Find the projection."""
        super().__init__(base, seed, layer)
        self.projection = base.model.get_submodule(base.architecture.down_projections[self.layer])

    @abstractmethod
    def choose_change(self, prompts: Sequence[Tensor], padding: Side) -> Change | None:
        """What the edited model makes of the projection's output for these prompts; `None` leaves all as it is.

        Args:
            prompts: Token ids of each row's prompt.
            padding: On which side the rows will be padded to one width.
        """

    @override
    @contextmanager
    def answering(self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right") -> Iterator[None]:
        with torch.no_grad():
            change = self.choose_change(prompts, padding) if edited else None
        parts = (self.base.model, self.projection)
        with nullcontext() if change is None else changed_output(*parts, change, len(prompts)):
            yield

    def read_keys(self, prompts: Sequence[Tensor]) -> list[Tensor]:
        """What enters the projection, of each prompt alone, so that it never depends on its neighbours.

        Nothing that is edited lies below, so it is the same before an edit and after.

        Args:
            prompts: Token ids of each prompt.

        Returns:
            For each prompt `(length, d_in)`.
        """
        return [read_inputs(self.base.model, [self.projection], prompt[None])[0][0] for prompt in prompts]

    def changed_loss(self, batch: EditBatch, change: Change) -> Tensor:
        """Mean negative log-likelihood of a batch's labels under a change of the projection's output."""
        with changed_output(self.suffix.model, self.suffix.edited, change, len(batch.states)):
            return self.loss(batch)
