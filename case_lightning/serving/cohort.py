"""Answers that are decoded together: one state, one key-value cache, a row for each answer.

Rows join and leave between two decoding steps. They are padded on the left, so that the last column is every row's last
token, whenever it joined.
"""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from case_lightning.serving.state import State
from case_lightning.subspace import CaseModel
from case_lightning.subspace.held import HELD


class Cohort:
    """Rows of one state.

    Args:
        model: The base model with an adapter.
        state: What all rows are answered from, to their end.
        prompts: Token ids of each row's prompt, `(length,)`.
        routes: The subspace of each or −1, and the position from which on it acts.

    Attributes:
        logits: Of each row's next token, `(rows, vocabulary)`.
    """

    def __init__(
        self, model: PeftModel, state: State, prompts: Sequence[Tensor], routes: Sequence[tuple[int, int]]
    ) -> None:
        """Run the prompts."""
        self.state, self._model = state, model
        self._tuner = cast(CaseModel, model.base_model)
        self._base = self._tuner.model
        self._device = model.device
        self._parameters = inspect.signature(self._base.forward).parameters
        self._subspaces, starts = torch.tensor(routes, device=self._device).unbind(1)
        self._cache = DynamicCache(config=self._base.config)
        ones = [torch.ones_like(prompt) for prompt in prompts]
        self._mask = torch.zeros(len(prompts), 0, dtype=torch.long, device=self._device)  # (rows, cached)
        tokens = _pad_left(prompts)
        padding = tokens.shape[1] - torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        self.logits = self._forward(tokens, _pad_left(ones), starts + padding)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._subspaces)

    @property
    def _layers(self) -> list[Any]:
        return list(self._cache.layers)

    @property
    def can_join(self) -> bool:
        """Whether its cache can be put together with another one's: its layers hold all keys and values."""
        return all(type(layer) is DynamicLayer for layer in self._layers)

    def step(self, tokens: Sequence[int]) -> None:
        """Go on by one token for each row."""
        column = torch.tensor(tokens)[:, None]
        self.logits = self._forward(column, torch.ones_like(column))

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all other rows, and of padding that is left of all that stay."""
        chosen = torch.tensor(rows, device=self._device)
        self._cache.batch_select_indices(chosen)
        self._mask, self._subspaces, self.logits = self._mask[chosen], self._subspaces[chosen], self.logits[chosen]
        unused = int(self._mask.any(0).int().argmax())
        if unused and self.can_join:
            self._mask = self._mask[:, unused:]
            for layer in self._layers:
                layer.keys, layer.values = layer.keys[..., unused:, :], layer.values[..., unused:, :]

    def join(self, other: "Cohort") -> None:
        """Take the rows of another cohort of the same state behind one's own."""
        width = max(self._mask.shape[1], other._mask.shape[1])
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            mine.keys = torch.cat([_widen(one.keys, width) for one in (mine, theirs)])
            mine.values = torch.cat([_widen(one.values, width) for one in (mine, theirs)])
        masks = [functional.pad(one._mask, (width - one._mask.shape[1], 0)) for one in (self, other)]
        self._mask = torch.cat(masks)
        self._subspaces = torch.cat([self._subspaces, other._subspaces])
        self.logits = torch.cat([self.logits, other.logits])

    @torch.inference_mode()
    def _forward(self, tokens: Tensor, mask: Tensor, starts: Tensor | None = None) -> Tensor:
        """Logits of the last column, `(rows, vocabulary)`.

        Args:
            tokens: `(rows, new)`.
            mask: 0 at padding, `(rows, new)`.
            starts: The column from which on each row is edited, `(rows,)`; by default all are.
        """
        self._mask = torch.cat([self._mask, mask.to(self._device)], dim=1)
        positions = (self._mask.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        optional = {"position_ids": positions, "logits_to_keep": 1}
        put_in_place(self._model, self.state)
        with self._tuner.forced_routes(self._subspaces, starts):
            output = self._base(
                input_ids=tokens.to(self._device),
                attention_mask=self._mask,
                past_key_values=self._cache,
                use_cache=True,
                **{key: value for key, value in optional.items() if key in self._parameters},
            )
        with suppress(AttributeError):
            delattr(self._cache, HELD)  # the routes are held here
        logits: Tensor = output.logits[:, -1].float()
        return logits


def put_in_place(model: PeftModel, state: State) -> None:
    """Have a model use the adapter of a state."""
    tuner = cast(CaseModel, model.base_model)
    tuner.case_layer.case_adapter[tuner.active_adapters[0]] = state.adapter


def _pad_left(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_side="left")


def _widen(held: Tensor, width: int) -> Tensor:
    """Keys or values, `(rows, heads, cached, head)`, with zeros on the left up to `width` columns."""
    return functional.pad(held, (0, 0, width - held.shape[2], 0))
