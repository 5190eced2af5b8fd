"""What a model's config declares, read the same way for every family."""

from torch import nn
from transformers import PreTrainedConfig


def text_config(model: nn.Module) -> PreTrainedConfig | None:
    """The config of the model's language part; `None` for a module without a config."""
    config = getattr(model, "config", None)
    return config.get_text_config(decoder=True) if isinstance(config, PreTrainedConfig) else None


def declared_value(config: PreTrainedConfig | None, key: str) -> object:
    """One value of a config; `None` where it is absent or differs from layer to layer."""
    try:
        return getattr(config, key, None)
    except RuntimeError:  # transformers refuses to name one value for layers that differ
        return None


def declared_size(config: PreTrainedConfig | None, key: str) -> int | None:
    """As `declared_value`, for a whole number; anything else counts as not declared."""
    value = declared_value(config, key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def attention_width(config: PreTrainedConfig | None) -> int | None:
    """Number of attention heads times the size of one, where the config tells."""
    heads, head = declared_size(config, "num_attention_heads"), declared_size(config, "head_dim")
    return heads * head if heads and head else declared_size(config, "hidden_size")
