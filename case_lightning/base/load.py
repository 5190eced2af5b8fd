"""One call that turns a name, a hub id, a folder or a GGUF file into a frozen base model."""

import os
from dataclasses import dataclass
from types import MappingProxyType

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from case_lightning.base.architecture import Architecture, find_architecture
from case_lightning.base.checkpoint import read_model, read_tokenizer
from case_lightning.base.fingerprint import fingerprint
from case_lightning.base.source import resolve_source
from case_lightning.errors import BaseModelError

DTYPES = MappingProxyType[str, torch.dtype | str](
    {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)


@dataclass(frozen=True)
class Base:
    """A frozen base model and what editing needs to know of it.

    Attributes:
        model: The causal language model, in eval mode, without gradients.
        tokenizer: Its tokenizer, with a pad token, padding on the right.
        name: What the model was asked for as.
        architecture: Where its layers and down-projections are.
        fingerprint: Content hash of the weights; see `case_lightning.base.fingerprint`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    architecture: Architecture
    fingerprint: str

    @property
    def context_length(self) -> int:
        """Longest text that the model takes, in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2048)


def load_base(model: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False) -> Base:
    """Load and freeze a base model.

    Args:
        model: The embedded model's name (`smollm2-135m`), a Hugging Face id, a folder in transformers' format, or a
            `.gguf` file, which is dequantised.
        dtype: `auto` (the checkpoint's own; float32 for the embedded model and `.gguf` files), `float32`, `bfloat16` or
            `float16`.
        device: `auto` (a GPU if there is one, in a distributed run each process's own), or a torch device such as `cpu`
            or `cuda:1`.
        trust_remote_code: Whether a checkpoint's own code may run.

    Returns:
        The frozen model with its tokenizer, architecture and fingerprint.

    Raises:
        BaseModelError: The model is unknown, cannot be reached, read or edited, or `dtype` or `device` does not exist.
    """
    if dtype not in DTYPES:
        raise BaseModelError(f"unknown dtype {dtype!r}; give one of {', '.join(DTYPES)}")
    place = choose_device(device)
    loaded, tokenizer = _read(resolve_source(model), model, dtype, place, trust_remote_code)
    loaded.name_or_path = model  # the embedded model's cache path would end up in saved adapters
    loaded.train(False).requires_grad_(False)
    if loaded.generation_config is not None and loaded.generation_config.pad_token_id is None:
        loaded.generation_config.pad_token_id = tokenizer.pad_token_id
    return Base(loaded, tokenizer, model, find_architecture(loaded), fingerprint(loaded))


def _read(
    source: str, name: str, dtype: str, device: torch.device, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        model = read_model(source, DTYPES[dtype], trust_remote_code, device)
        return model, read_tokenizer(source, trust_remote_code)
    except BaseModelError:
        raise
    except Exception as error:  # a checkpoint is foreign input: transformers raises almost any type for a bad one
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BaseModelError(
            f"the base model {name!r} cannot be read: {reason}; restore it, or give another"
        ) from error


def choose_device(device: str) -> torch.device:
    """The device of a name as `load_base` takes it.

    Raises:
        BaseModelError: There is no such device.
    """
    if device == "auto":
        local_rank = os.environ.get("LOCAL_RANK")  # set by launchers in each process of a distributed run
        gpu = f"cuda:{local_rank}" if local_rank else "cuda"
        return torch.device(gpu if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise BaseModelError(f"unknown device {device!r}; give auto, cpu, cuda or cuda:<number>") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise BaseModelError(f"device {device!r} is not there: {torch.cuda.device_count()} GPUs are visible; give cpu")
    return chosen
