"""Modules that work as at inference for a while, whatever mode the fit has them in."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put each of some modules, but not those within it, into evaluation mode, and back at the end."""
    training = [one for one in modules if one.training]
    try:
        for one in training:
            one.training = False
        yield
    finally:
        for one in training:
            one.training = True
