"""Where the decoder layers, their down-projections, the final norm and the output head of a causal language model are.

Everything is found by structure, so a new model family works without a table entry; what cannot be found raises an
error that lists what was seen instead of guessing.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from case_lightning.base.declared import attention_width, declared_size, text_config
from case_lightning.base.projection import Linear, find_down_projections, iterate_linears
from case_lightning.errors import BaseModelError

DEFAULT_DEPTH = 0.8  # deep layers edit best and leave the shortest suffix to train through: 24 of 30
LISTED = 6  # names an error message lists


@dataclass(frozen=True)
class Architecture:
    """The parts of a causal language model that editing touches.

    Attributes:
        layers: The decoder layers.
        layers_path: Their dotted name in the model.
        down_projections: Dotted name in the model of every layer's down-projection.
        final_norm: The norm after the last layer; `None` where the layers end in their own.
        output_head: The module from hidden state to logits.
        d_in: Input width of a down-projection: the number of intermediate neurons.
        d_out: Its output width: the hidden size.
    """

    layers: nn.ModuleList
    layers_path: str
    down_projections: tuple[str, ...]
    final_norm: nn.Module | None
    output_head: nn.Module
    d_in: int
    d_out: int

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def default_layer(self) -> int:
        """The layer edited unless another is chosen: four fifths of the way up."""
        return min(round(DEFAULT_DEPTH * self.n_layers), self.n_layers - 1)

    def check_layer(self, layer: int) -> int:
        """Return `layer` if the model has it.

        Raises:
            BaseModelError: It is not one of 0 to `n_layers - 1`.
        """
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < self.n_layers:
            raise BaseModelError(
                f"layer {layer!r} does not exist: the base model has layers 0 to {self.n_layers - 1}, "
                f"by default {self.default_layer} is edited"
            )
        return layer


def find_architecture(model: nn.Module) -> Architecture:
    """Find the parts of a causal language model by structure.

    Args:
        model: A causal language model with its output head; on any device, quantised or not, before or after an adapter
            is put on it.

    Returns:
        What was found.

    Raises:
        BaseModelError: No decoder layers, no single down-projection in each, no output head, layers of unequal width,
            or attention that looks ahead (an encoder).
    """
    config = text_config(model)
    path, layers = _find_layers(model, config)
    _check_causal(model, layers)
    head = _find_output_head(model)
    linears = [_find_down_projection(model, f"{path}.{i}", config) for i in range(len(layers))]
    widths = sorted({linear.d_in for linear in linears})
    if len(widths) > 1:
        raise BaseModelError(
            f"{_kind(model)} cannot be edited: its layers' MLPs differ in width, {widths}, as with a mixture of "
            f"experts; give a model whose layers are alike"
        )
    d_in, d_out = linears[0].d_in, linears[0].d_out
    names = tuple(linear.name for linear in linears)
    return Architecture(layers, path, names, _find_final_norm(model, path, d_out), head, d_in, d_out)


def _find_layers(model: nn.Module, config: PreTrainedConfig | None) -> tuple[str, nn.ModuleList]:
    """The `ModuleList` of the declared length, else the longest of like blocks; of several, one with MLPs."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    alike = [(name, module) for name, module in lists if len({type(block) for block in module}) == 1]
    alike.sort(key=lambda found: -len(found[1]))
    declared = declared_size(config, "num_hidden_layers")
    fitting = [(name, module) for name, module in lists if len(module) == declared] or alike
    if not fitting:
        raise _unknown(model, "no list of decoder layers")
    with_mlp = [(name, module) for name, module in fitting if _list_down_projections(module[0], config)]
    return (with_mlp or fitting)[0]


def _list_down_projections(layer: nn.Module, config: PreTrainedConfig | None) -> list[Linear]:
    hidden = declared_size(config, "hidden_size")
    if hidden is None:
        return []
    attention = attention_width(config) or hidden
    return find_down_projections(layer, hidden, attention, declared_size(config, "intermediate_size"))


def _check_causal(model: nn.Module, layers: nn.ModuleList) -> None:
    flags = [flag for module in layers.modules() if isinstance(flag := getattr(module, "is_causal", None), bool)]
    if flags and not any(flags):
        raise BaseModelError(
            f"{_kind(model)} cannot be edited: its attention looks ahead, so it is an encoder; "
            f"give a causal (decoder-only) language model"
        )


def _find_output_head(model: nn.Module) -> nn.Module:
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    if not isinstance(head, nn.Module):
        raise _unknown(model, "no output head")
    return head


def _find_down_projection(model: nn.Module, path: str, config: PreTrainedConfig | None) -> Linear:
    found = _list_down_projections(model.get_submodule(path), config)
    if not found:
        raise _unknown(model, f"no MLP down-projection in {path}")
    if len(found) > 1:
        names = _shorten([linear.name for linear in found])
        raise BaseModelError(
            f"{_kind(model)} cannot be edited: {path} has {len(found)} MLPs ({names}), as with a mixture of "
            f"experts; give a model with one MLP a layer"
        )
    return found[0]._replace(name=f"{path}.{found[0].name}")


def _find_final_norm(model: nn.Module, layers_path: str, hidden: int) -> nn.Module | None:
    """The norm beside the list of layers: one registered after it rather than before, the embeddings' own last."""
    parent_path, _, list_name = layers_path.rpartition(".")
    siblings = list(model.get_submodule(parent_path).named_children())
    start = [name for name, _ in siblings].index(list_name)
    ordered = siblings[start + 1 :] + siblings[:start]
    norms = [(name, module) for name, module in ordered if _is_norm(module, hidden)]
    plain = [module for name, module in norms if "emb" not in name]
    return next(iter(plain + [module for name, module in norms if "emb" in name]), None)


def _is_norm(module: nn.Module, hidden: int) -> bool:
    shapes = [tuple(parameter.shape) for parameter in module.parameters()]
    is_plain = not shapes and "norm" in type(module).__name__.lower()  # a norm without weights
    return is_plain or (bool(shapes) and all(shape == (hidden,) for shape in shapes))


def _unknown(model: nn.Module, lacking: str) -> BaseModelError:
    lists = [
        f"{name} ({len(module)} x {type(module[0]).__name__ if len(module) else 'nothing'})"
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    ]
    linears = [f"{linear.name} ({linear.d_in} to {linear.d_out})" for linear in iterate_linears(model)]
    return BaseModelError(
        f"{_kind(model)} cannot be edited: {lacking} found; module lists seen: {_shorten(lists)}; "
        f"linear layers seen: {_shorten(linears)}; give a causal language model with its output head"
    )


def _kind(model: nn.Module) -> str:
    return type(model).__name__


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none") + more
