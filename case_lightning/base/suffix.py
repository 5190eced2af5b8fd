"""The frozen prefix, run once an edit, and the suffix, run once a step.

Everything below the edited layer is frozen, so its outcome for a text never changes: `Prefix` runs it once and keeps
the states that enter the edited layer. `Suffix` runs the rest of the model from such states, with the model's own
forward, so it holds for every architecture: the layers below are swapped for ones that do nothing, the edited layer is
handed the kept states, and only the positions that carry a label go through the output head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from typing_extensions import override

from case_lightning.base.architecture import Architecture


class _ReachedError(Exception):
    """Ends a forward pass once the edited layer's input is known."""


class _Skipped(nn.Module):
    """Stands in for a layer whose outcome is already known."""

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple

    @override
    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if self.returns_tuple else hidden_states


class Prefix:
    """Runs the layers below the edited one.

    Args:
        model: The base model, with or without an adapter.
        architecture: Its parts.
        layer: Index of the edited layer.
        batch_tokens: Padded tokens to run at once.
    """

    def __init__(
        self, model: PreTrainedModel, architecture: Architecture, layer: int, batch_tokens: int = 2048
    ) -> None:
        """Keep what to run."""
        self.model = model
        self.entry = architecture.layers[layer]
        self.batch_tokens = batch_tokens

    @torch.no_grad()
    def __call__(self, sequences: Sequence[Tensor]) -> list[Tensor]:
        """The states that enter the edited layer.

        Args:
            sequences: Token ids of each text, `(length,)`.

        Returns:
            For each text `(length, hidden)`.
        """
        states: list[Tensor | None] = [None] * len(sequences)
        for rows in self._group(sequences):
            padded = pad_sequence([sequences[row] for row in rows], batch_first=True).to(self.model.device)
            for row, state in zip(rows, self._run(padded), strict=True):
                states[row] = state[: len(sequences[row])].clone()
        return [state for state in states if state is not None]

    def _group(self, sequences: Sequence[Tensor]) -> Iterator[list[int]]:
        """Rows of like length, at most `batch_tokens` padded tokens together."""
        rows: list[int] = []
        for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row])):
            if rows and (len(rows) + 1) * len(sequences[row]) > self.batch_tokens:
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows

    def _run(self, tokens: Tensor) -> Tensor:
        found: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _ReachedError

        handle = self.entry.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self.model(input_ids=tokens, use_cache=False)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        return found[0]


class Suffix:
    """Runs the edited layer and those above it, from kept states to logits.

    Args:
        model: The base model with the adapter on it.
        architecture: Its parts.
        layer: Index of the edited layer.
    """

    def __init__(self, model: PreTrainedModel, architecture: Architecture, layer: int) -> None:
        """Keep what to run, and prepare what stands in for the layers below."""
        self.model = model
        self.layers = architecture.layers
        self.layer = layer
        self.head = architecture.output_head
        self._skipped = [_stand_in(module, self._returns_tuple()) for module in self.layers[:layer]]

    def __call__(self, states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits at given positions.

        Padding is on the right, where causal attention never looks, so no mask is needed.

        Args:
            states: What enters the edited layer, `(batch, seq, hidden)`.
            rows: Row of each wanted position, `(positions,)`.
            columns: Its column, `(positions,)`.

        Returns:
            `(positions, vocabulary)`.
        """
        with self._without_prefix(states), only_positions(self.head, rows, columns):
            logits: Tensor = self.model(inputs_embeds=self._stand_in_embeddings(states), use_cache=False).logits
        return logits[0]

    def _stand_in_embeddings(self, states: Tensor) -> Tensor:
        """Zeros in the shape of embeddings, whose width a few models project to that of the states."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return states.new_zeros(*states.shape[:2], weight.shape[1])

    @contextmanager
    def _without_prefix(self, states: Tensor) -> Iterator[None]:
        def hand_over(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            if args:
                return (states, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": states}

        kept = list(self.layers[: self.layer])
        handle = self.layers[self.layer].register_forward_pre_hook(hand_over, with_kwargs=True)
        try:
            for index, skipped in enumerate(self._skipped):
                self.layers[index] = skipped
            yield
        finally:
            handle.remove()
            for index, module in enumerate(kept):
                self.layers[index] = module

    @torch.no_grad()
    def _returns_tuple(self) -> bool:
        """Whether the model's layers return a tuple, as some still do."""
        found: list[bool] = []

        def look(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
            found.append(isinstance(output, tuple))
            raise _ReachedError

        handle = self.layers[0].register_forward_hook(look)
        try:
            self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.model.device), use_cache=False)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        return found[0]


def _stand_in(layer: nn.Module, returns_tuple: bool) -> _Skipped:
    """A skipped layer with the plain attributes that a model's loop may read, such as its kind of attention."""
    skipped = _Skipped(returns_tuple)
    for name, value in vars(layer).items():
        if isinstance(value, (str, int, bool)) and not hasattr(skipped, name):
            setattr(skipped, name, value)
    return skipped


@contextmanager
def only_positions(head: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Have an output head compute logits at some positions alone; inside, they come as `(1, positions, vocabulary)`.

    Args:
        head: The output head.
        rows: Row of each position, `(positions,)`.
        columns: Its column, `(positions,)`.
    """

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows, columns][None], *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
