"""Prompts that have nothing to do with any edit, for methods that learn to leave such prompts alone.

The papers draw them from a data set of questions. Here they are lines of the calibration text that the package carries,
so that no method sees what it is scored on.
"""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.editing.encoding import encode_prompt
from case_lightning.subspace.router import read_ordinary_lines


def draw_irrelevant(tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> list[Tensor]:
    """Token ids of some irrelevant prompts, `(length,)` each.

    Args:
        tokenizer: The base model's.
        count: How many; of a text with fewer lines, all.
        seed: Of the choice.
    """
    lines = read_ordinary_lines()
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(seed))[:count]
    return [encode_prompt(tokenizer, lines[index]) for index in order.tolist()]
