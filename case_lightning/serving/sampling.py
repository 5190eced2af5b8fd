"""How the next token is chosen from its logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY = 1e-5  # logits divided by less are no longer numbers


@dataclass(frozen=True)
class Sampling:
    """How one answer is sampled.

    Attributes:
        temperature: 0, and what is next to it, takes the likeliest token.
        top_p: Share of probability that is drawn from, the likeliest tokens first; above 0, up to 1.
        seed: Of the draws; the same seed, question and state give the same answer, unless rounding in another
            batch tips a draw.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def make_generator(self) -> torch.Generator | None:
        """The random numbers of one answer; `None` where none are drawn."""
        if self.temperature < GREEDY:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def choose_token(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """The next token of one answer.

    Args:
        logits: `(vocabulary,)`.
        sampling: How to choose.
        generator: Its random numbers.
    """
    if generator is None:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double().cpu() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, places = probabilities.sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= sampling.top_p  # the first is always kept
        probabilities[places[beyond]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))
