"""What comes before the first edited position of a text: keys and values that never change.

Where an edit acts from a certain position on, all positions before it answer as in the unedited model, in every layer.
Later ones see of them their keys and values alone, so these are computed once a text, and a step runs the few positions
behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

Layers = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each


@dataclass(frozen=True)
class Past:
    """Keys and values of the positions before those that are run, in the layers from the edited one on.

    Attributes:
        layers: Keys and values of each layer, `(batch, heads, past, width)`, zero on the left where padded.
        lengths: How many positions each row has, `(batch,)`.
    """

    layers: Layers
    lengths: Tensor

    def take(self, rows: Tensor) -> "Past":
        """That of some rows."""
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        return Past(_map(self.layers, lambda part: part[rows, :, part.shape[2] - longest :]), lengths)

    def to(self, device: torch.device | str) -> "Past":
        """The same on another device."""
        return Past(_map(self.layers, lambda part: part.to(device)), self.lengths.to(device))

    def fill_cache(self, n_below: int, dtype: torch.dtype) -> DynamicCache:
        """A key-value cache that holds it.

        Args:
            n_below: How many layers are below the edited one.
            dtype: Of the layers that are run.
        """
        cache = begin_cache(n_below, self.layers[0][0][:, :1, :, :1])
        for index, (keys, values) in enumerate(self.layers, n_below):
            cache.update(keys.to(dtype), values.to(dtype), index)
        return cache

    def place(self, width: int) -> tuple[Tensor, Tensor]:
        """Where so many further columns stand.

        Returns:
            The attention mask, 1 where a key counts, `(batch, past + width)`, and positions, `(batch, width)`.
        """
        longest = self.layers[0][0].shape[2]
        columns = torch.arange(longest + width, device=self.lengths.device)
        mask = columns >= (longest - self.lengths)[:, None]
        return mask.long(), self.lengths[:, None] + torch.arange(width, device=self.lengths.device)


def begin_cache(n_below: int, like: Tensor) -> DynamicCache:
    """A key-value cache in which the layers that are not run hold zeros, and the others nothing yet.

    Args:
        n_below: How many are not run.
        like: A tensor of the shape that each shall hold, `(batch, 1, past, 1)`.
    """
    cache, zeros = DynamicCache(), torch.zeros_like(like)
    for index in range(n_below):
        cache.update(zeros, zeros, index)
    return cache


def read_cache(cache: DynamicCache, n_below: int, lengths: Sequence[int]) -> list[Past]:
    """What a cache holds of each row, which begins at its first column, in the layers that were run."""
    layers = cast(Layers, tuple((layer.keys, layer.values) for layer in cache.layers[n_below:]))  # type: ignore[union-attr]

    def cut(row: int, length: int) -> Layers:
        return _map(layers, lambda part: part[row : row + 1, :, :length].clone())

    return [Past(cut(row, length), torch.tensor([length])) for row, length in enumerate(lengths)]


def pad_past(pasts: Sequence[Past]) -> Past:
    """Several of one row each as one batch, padded on the left."""
    lengths = torch.cat([past.lengths for past in pasts])
    longest = int(lengths.max())
    padded = [
        _map(past.layers, lambda part: functional.pad(part, (0, 0, longest - part.shape[2], 0))) for past in pasts
    ]
    layers = [tuple(zip(*rows, strict=True)) for rows in zip(*padded, strict=True)]  # keys and values of all rows
    joined = tuple((torch.cat(keys), torch.cat(values)) for keys, values in layers)
    return Past(joined, lengths.to(joined[0][0].device))


def _map(layers: Layers, change: Callable[[Tensor], Tensor]) -> Layers:
    return tuple((change(keys), change(values)) for keys, values in layers)
