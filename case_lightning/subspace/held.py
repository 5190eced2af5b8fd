"""What is remembered of the rows of a batch from one forward to the next: their routes, and their text so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

NO_TOKEN = -1  # in a text: padding, or a place that is not known
HELD = "_case_held"  # attribute of a key-value cache


class Routes(NamedTuple):
    """Where the rows of a batch are edited.

    Attributes:
        subspaces: The subspace of each row or `UNEDITED`, `(batch,)`.
        starts: The column of its text from which on it is edited, `(batch,)`.
    """

    subspaces: Tensor
    starts: Tensor

    def repeated(self, rows: Tensor) -> "Routes":
        """The routes of a batch in which each row may have been repeated since; see `repeat_rows`."""
        return Routes(*(repeat_rows(part, rows) for part in self))


@dataclass(frozen=True)
class Held:
    """What a key-value cache was filled with.

    Attributes:
        routes: Those of its rows, or `None` where all were unedited.
        text: The tokens of each row, `NO_TOKEN` at padding, `(batch, seq)`.
    """

    routes: Routes | None = None
    text: Tensor | None = None

    def extend(self, past: int, new: Tensor) -> Tensor:
        """The text with what comes now.

        Args:
            past: Length of the cache; less than was held where it was cropped since.
            new: Text of the new places, `(batch, new)`; of more rows where each was repeated since.

        Returns:
            `(batch, past + new)`.
        """
        text = new.new_full((len(new), past), NO_TOKEN)
        if self.text is not None and len(new) % len(self.text) == 0:  # else rows were taken out since
            known = repeat_rows(self.text[:, :past], new)
            text[:, : known.shape[1]] = known
        return torch.cat([text, new], dim=1)


@dataclass
class Generation:
    """A call of `generate` under way, in which each row is routed once.

    Attributes:
        prompt: The text that it was given, `(prompts, seq)`, or `None`.
        length: Length of that with what the cache holds before it.
        decision: The routes, or `None` where all are unedited, once they are decided.
    """

    prompt: Tensor | None
    length: int
    decision: tuple[Routes | None] | None = None

    @classmethod
    def begin(cls, prompt: object, mask: object) -> "Generation":
        """What is known of a call before its first forward, from what it was given."""
        if not isinstance(prompt, Tensor) or prompt.dim() != 2:
            return cls(None, 0)
        given = isinstance(mask, Tensor) and mask.dim() == 2 and len(mask) == len(prompt)
        length = max(mask.shape[1], prompt.shape[1]) if given else prompt.shape[1]  # type: ignore[attr-defined]
        return cls(read_text(prompt, mask if given else None), length)

    def decide(self, text: Tensor | None, route: Callable[[Tensor | None], Routes | None]) -> Routes | None:
        """The routes, decided by the text of the first forward and what further chunks of the prompt will bring."""
        if self.decision is None:
            self.decision = (route(text if text is None else self._complete(text)),)
        return self.decision[0]

    def _complete(self, text: Tensor) -> Tensor:
        rest = self.length - text.shape[1]
        if self.prompt is None or rest <= 0:
            return text
        return torch.cat([text, repeat_rows(self.prompt[:, -rest:], text).to(text.device)], dim=1)


def repeat_rows(held: Tensor, rows: Tensor) -> Tensor:
    """What is held of each row, where rows were repeated since, as for several beams or samples of each prompt.

    Raises:
        ValueError: The batch is not of as many rows, nor of each one several times.
    """
    if len(rows) % len(held):
        raise ValueError(
            f"the routes of {len(held)} rows cannot be held for a batch of {len(rows)}: expected the same rows as "
            f"before, or each several times in a row; begin with an empty key-value cache"
        )
    return held if len(held) == len(rows) else held.repeat_interleave(len(rows) // len(held), dim=0)


def read_text(tokens: Tensor, mask: object, past: int = 0) -> Tensor:
    """The tokens with `NO_TOKEN` at padding, `(batch, seq)`.

    Args:
        tokens: `(batch, seq)`.
        mask: An attention mask in any form in which a model takes it.
        past: Length of the cache before them.
    """
    used = _find_mask(mask, past, tokens.shape[1])
    return tokens if used is None else tokens.masked_fill(~used.to(tokens.device), NO_TOKEN)


def drop_padding(text: Tensor, pad: int | None) -> Tensor:
    """Text that came without a mask, `NO_TOKEN` where a row ends in padding, `(batch, seq)`.

    As padding count the model's pad token and token 0, with which evaluation harnesses fill rows up.

    Args:
        text: `(batch, seq)`.
        pad: Id of the pad token, if there is one.
    """
    is_pad = (text == 0) | (text == (0 if pad is None else pad))
    return text.masked_fill(is_pad.flip(1).cumprod(1).flip(1).bool(), NO_TOKEN)


def _find_mask(mask: object, past: int, new: int) -> Tensor | None:
    """Which of the new tokens are no padding, boolean `(batch, new)`."""
    if isinstance(mask, dict):  # one for each kind of attention; the padding is the same
        mask = next((one for one in mask.values() if one is not None), None)
    if not isinstance(mask, Tensor):
        return None
    if mask.dim() == 4:  # (batch, 1, new, keys), boolean or added: a token that may look at itself is no padding
        own = mask[:, 0].diagonal(offset=past, dim1=1, dim2=2)[:, :new]
        mask = own if own.dtype == torch.bool else own == 0
    return mask[:, -new:].bool() if mask.shape[1] >= new else None
