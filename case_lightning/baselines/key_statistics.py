"""Statistics of a down-projection's inputs, its keys, over general text.

MEMIT and AlphaEdit protect what a model already knows through the second moment of the keys, `E[k kᵀ]`. The papers take
it from 100,000 samples of Wikipedia; here it comes from a text file that the user names, or from the short text that
the package carries.

What a small text means: of `n` tokens the moment has rank `n` at most. With fewer tokens than the projection has inputs
(`d_in`), directions that the text never shows count as unused, and an edit may go there unhindered although other text
uses them. A ridge, a share of the mean variance in every direction, bounds that for MEMIT; AlphaEdit's null space grows
by those directions. With a little more than `d_in` tokens the smallest variances are still underestimated.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from case_lightning.base.partial import PIECE, PIECES_AT_ONCE, read_inputs
from case_lightning.errors import ConfigError
from case_lightning.subspace.router import read_calibration


def read_text(tokenizer: PreTrainedTokenizerBase, path: str | None = None) -> Tensor:
    """Token ids of a text, `(tokens,)`.

    Args:
        tokenizer: The base model's.
        path: A plain text file; by default the calibration text that the package carries.

    Raises:
        ConfigError: The file cannot be read or is too short.
    """
    if path is None:
        return read_calibration(tokenizer)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"text: {path} cannot be read as plain text ({error}); name a file in UTF-8") from error
    tokens = [token for line in lines for token in tokenizer(line, add_special_tokens=False).input_ids]
    if len(tokens) < PIECE:
        raise ConfigError(
            f"text: {path} has {len(tokens)} tokens; name one of at least {PIECE}, better of many thousand"
        )
    return torch.tensor(tokens)


def second_moments(model: PreTrainedModel, projections: Sequence[nn.Module], tokens: Tensor) -> list[Tensor]:
    """`E[k kᵀ]` of what enters some projections over a text, uncentred, each `(d_in, d_in)` in float64.

    The text is cut into pieces, without the first token of each, as in `read_projection`, and is run once for all.

    Args:
        model: The base model.
        projections: Some of its down-projections, from low to high.
        tokens: Token ids of the text, `(tokens,)`, at least a piece.
    """
    pieces = tokens[: len(tokens) // PIECE * PIECE].view(-1, PIECE).to(model.device)
    totals = [torch.zeros((), dtype=torch.float64)] * len(projections)
    for part in torch.split(pieces, PIECES_AT_ONCE):
        found = [keys[:, 1:].flatten(0, 1).double() for keys in read_inputs(model, projections, part)]
        totals = [total.to(keys.device) + keys.T @ keys for total, keys in zip(totals, found, strict=True)]
    return [total / (len(pieces) * (PIECE - 1)) for total in totals]


def add_ridge(moment: Tensor, share: float) -> Tensor:
    """The moment with `share` of its mean variance more in every direction, `C + ρ (tr C / d) I`."""
    return moment + share * moment.trace() / len(moment) * torch.eye(len(moment)).to(moment)
