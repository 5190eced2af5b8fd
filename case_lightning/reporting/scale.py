"""Linear scales with round ticks, and coordinates as SVG writes them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A linear map from values to drawing units.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: Where the scale begins, in drawing units.
        end: Where it ends.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where a value lies, in drawing units."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5, *, whole: bool = False) -> list[float]:
        """Return about `count` round values within the scale, on request whole numbers only."""
        step = find_round_step((self.high - self.low) / count)
        if whole:
            step = max(1.0, step)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def find_round_step(smallest: float) -> float:
    """Return the first of 1, 2, 5, 10, 20, … (and their fractions by ten) that is no smaller than a value above 0."""
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest * (1 - 1e-9))


def write_unit(value: float) -> str:
    """Write a coordinate to a tenth of a drawing unit, which no eye can tell from the exact one."""
    return format(round(value, 1), ".7g")
