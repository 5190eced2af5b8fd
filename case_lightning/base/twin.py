"""A copy of a model's structure that shares its parameters, to be taken apart without touching the model."""

import copy

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
CONTAINERS = ("_modules", "_parameters", "_buffers", *HOOKS)  # of an nn.Module, not shared by its copy


def copy_structure(
    module: nn.Module,
    twins: dict[nn.Module, nn.Module],
    parameters: dict[nn.Parameter, nn.Parameter],
    dtype: torch.dtype | None,
) -> nn.Module:
    """A module of the same structure with its floating-point parameters in a dtype, or as they are, and without hooks.

    Args:
        module: What to copy.
        twins: Modules that have their twin already; grows.
        parameters: Parameters that have theirs, for some are tied; grows.
        dtype: Dtype of the copy; a parameter that is in it already is shared.
    """
    if module in twins:
        return twins[module]
    twin = twins[module] = type(module).__new__(type(module))
    vars(twin).update({name: value.copy() if name in CONTAINERS else value for name, value in vars(module).items()})
    for name in HOOKS:
        getattr(twin, name).clear()
    for name, parameter in module._parameters.items():
        if dtype and parameter is not None and parameter.is_floating_point() and parameter.dtype != dtype:
            if parameter not in parameters:
                parameters[parameter] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
            twin._parameters[name] = parameters[parameter]
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else copy_structure(child, twins, parameters, dtype)
    return twin


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Have a model, and it alone of those that share its configuration, compute attention in a certain way."""
    own: dict[int, PretrainedConfig] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            twin = own.setdefault(id(config), copy.deepcopy(config))
            twin._attn_implementation = name
            vars(module)["config"] = twin
