"""Forward passes that end early, once what was asked for is known."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

PIECE, PIECES_AT_ONCE = 64, 16  # tokens


class ReachedError(Exception):
    """Ends a forward pass once it has reached what was asked for; may bring that along."""


def run_until_reached(model: PreTrainedModel, handle: RemovableHandle, batches: Sequence[Tensor]) -> None:
    """Run a model on token ids, `(batch, seq)` each, until its hook raises; then take the hook off."""
    try:
        for tokens in batches:
            with suppress(ReachedError):
                model(input_ids=tokens.to(model.device), use_cache=False)
    finally:
        handle.remove()


def bring_out(run: Callable[[], object]) -> Tensor:
    """What a forward pass brings along when it ends early."""
    try:
        run()
    except ReachedError as reached:
        return cast(Tensor, reached.args[0])
    raise AssertionError("the pass went on to its end")


@torch.no_grad()
def read_inputs(model: PreTrainedModel, modules: Sequence[nn.Module], tokens: Tensor) -> list[Tensor]:
    """What enters some modules; nothing above the last of them runs.

    Args:
        model: The base model.
        modules: Layers or projections, in the order in which they run.
        tokens: Token ids, `(batch, seq)`.

    Returns:
        For each module `(batch, seq, width)`.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        found.append(entering.reshape(*tokens.shape, -1))  # some models flatten what enters their MLPs
        if len(found) == len(modules):
            raise ReachedError

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        run_until_reached(model, handles.pop(), [tokens])
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def read_projection(model: PreTrainedModel, projection: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What enters and what leaves a projection over a text.

    The text is cut into pieces, of which the first token is left out: models give it activations of its own kind. So is
    what remains at the end.

    Args:
        model: The base model.
        projection: One of its down-projections.
        tokens: Token ids of the text, `(tokens,)`.

    Returns:
        Inputs `(n, d_in)` and outputs `(n, d_out)`, of all tokens but those.

    Raises:
        ValueError: The text is shorter than a piece.
    """
    if len(tokens) < PIECE:
        raise ValueError(f"the text has {len(tokens)} tokens; give at least {PIECE}")
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        rows = [one.reshape(-1, PIECE, one.shape[-1])[:, 1:] for one in (args[0], output)]
        found.append((rows[0].flatten(0, 1), rows[1].flatten(0, 1)))
        raise ReachedError

    pieces = tokens[: len(tokens) // PIECE * PIECE].view(-1, PIECE)
    run_until_reached(model, projection.register_forward_hook(keep), torch.split(pieces, PIECES_AT_ONCE))
    return torch.cat([inputs for inputs, _ in found]), torch.cat([outputs for _, outputs in found])
