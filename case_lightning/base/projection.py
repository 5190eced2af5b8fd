"""Finding an MLP's down-projection inside a decoder layer by shapes alone.

Class and attribute names differ from family to family (`mlp.down_proj`, `mlp.c_proj`, `fc2`, `mlp.dense_4h_to_h`);
shapes do not. Only declared sizes are read, so quantised weights and the meta device work too.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D


class Linear(NamedTuple):
    """A linear module's dotted name below its layer, and its sizes."""

    name: str
    d_in: int
    d_out: int

    @property
    def parent(self) -> str:
        """Dotted name of the module that holds it; empty for the layer itself."""
        return self.name.rpartition(".")[0]


def linear_sizes(module: nn.Module) -> tuple[int, int] | None:
    """Input and output width of a linear module, `None` for any other.

    Counts `nn.Linear`, GPT-2's transposed `Conv1D`, and whatever else declares `in_features` and `out_features`, as
    quantised layers and adapter wrappers do.
    """
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    d_in, d_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (d_in, d_out) if isinstance(d_in, int) and isinstance(d_out, int) else None


def iterate_linears(module: nn.Module, prefix: str = "") -> Iterator[Linear]:
    """Outermost linear modules in order of registration; what an adapter wraps is not looked into."""
    for name, child in module.named_children():
        sizes = linear_sizes(child)
        if sizes:
            yield Linear(prefix + name, *sizes)
        else:
            yield from iterate_linears(child, f"{prefix}{name}.")


def find_down_projections(
    layer: nn.Module, hidden: int, attention: int, intermediate: int | None = None
) -> list[Linear]:
    """The linear modules of a decoder layer that can be its MLP's down-projection.

    A down-projection writes the hidden state, and what feeds it sits beside it in the same module: one projection of
    its input width (plain MLP), two of it (gated), or one of twice the width (fused gate and up). Attention seldom
    looks like this; where it does (a value projection beside query and key, a fused query-key-value with half as many
    keys), it is `attention` wide, and what is that wide counts only if the config declares an MLP of this width. Of
    several widths the widest is the MLP. A layer whose linear modules all sit together has no MLP: that one module
    mixes tokens.

    Args:
        layer: One decoder layer.
        hidden: Width of the hidden state.
        attention: Number of attention heads times the size of one.
        intermediate: Width of the MLP, where the config declares it.

    Returns:
        One module for a dense MLP, none where nothing fits, several for a mixture of experts.
    """
    siblings = defaultdict(list)
    for linear in iterate_linears(layer):
        siblings[linear.parent].append(linear)
    if len(siblings) < 2:
        return []
    fitting = [last for group in siblings.values() if (last := _last_fitting(group, hidden))]
    fitting = [linear for linear in fitting if linear.d_in != attention or linear.d_in == intermediate]
    widest = max((linear.d_in for linear in fitting), default=0)
    return [linear for linear in fitting if linear.d_in == widest]


def _last_fitting(siblings: list[Linear], hidden: int) -> Linear | None:
    fitting = [linear for linear in siblings if linear.d_out == hidden and _is_fed_as_mlp(linear, siblings, hidden)]
    return fitting[-1] if fitting else None  # where all widths are equal, the last registered is the last applied


def _is_fed_as_mlp(linear: Linear, siblings: list[Linear], hidden: int) -> bool:
    feeding = [other.d_out for other in siblings if other is not linear and other.d_in == hidden]
    return feeding in ([linear.d_in], [linear.d_in, linear.d_in], [2 * linear.d_in])
