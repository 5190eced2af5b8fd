"""Reading one checkpoint, a folder, a hub id or a GGUF file, with transformers and without its noise."""

import io
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from case_lightning.base.digits import restore_digit_split
from case_lightning.errors import BaseModelError


def read_tokenizer(source: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a checkpoint, with a pad token and padding on the right.

    A tokenizer without a pad token pads with its end-of-sequence token: attention masks hide padding, so its identity
    never matters to the model.

    Args:
        source: A folder, a hub id, or the path of a `.gguf` file.
        trust_remote_code: Whether the checkpoint's own code may run.

    Raises:
        BaseModelError: The tokenizer has neither a pad nor an end-of-sequence token.
    """
    place, gguf = _split_gguf(source)
    with silence():
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, **gguf)
    if gguf:
        restore_digit_split(tokenizer, Path(source))
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise BaseModelError(f"the tokenizer of {source} has neither a pad nor an end-of-sequence token; set one")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def read_model(
    source: str,
    dtype: torch.dtype | str = "auto",
    trust_remote_code: bool = False,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """Read the causal language model of a checkpoint, complete or not at all.

    Args:
        source: A folder, a hub id, or the path of a `.gguf` file, whose weights are dequantised.
        dtype: The dtype of the weights; `"auto"` is the checkpoint's own, float32 for a `.gguf` file.
        trust_remote_code: Whether the checkpoint's own code may run.
        device: Where the weights are put; the CPU by default.

    Raises:
        BaseModelError: The checkpoint is of another kind of model, or lacks weights.
    """
    place, gguf = _split_gguf(source)
    if gguf:
        gguf["quantization_config"] = GgufConfig(dequantize=True)
        dtype = torch.float32 if dtype == "auto" else dtype
    else:
        _check_kind(source, trust_remote_code)
    with silence():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype,
            device_map=device or torch.device("cpu"),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **gguf,
        )
    model: PreTrainedModel = loaded[0]
    _check_complete(source, model, loaded[1]["missing_keys"])
    return model


@contextmanager
def silence() -> Iterator[None]:
    """Keep warnings and progress bars back while transformers reads or writes; failures are raised all the same."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with redirect_stderr(io.StringIO()):  # the GGUF reader's progress bar heeds no setting
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _split_gguf(source: str) -> tuple[str, dict[str, Any]]:
    path = Path(source)
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (source, {})


def _check_kind(source: str, trust_remote_code: bool) -> None:
    with silence():
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    brings_code = "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    is_causal = brings_code or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if getattr(config, "is_encoder_decoder", False) or not is_causal:
        raise BaseModelError(
            f"{source} is a {config.model_type!r} model, not a causal (decoder-only) language model; give one of those"
        )


def _check_complete(source: str, model: PreTrainedModel, missing: Collection[str]) -> None:
    """Refuse a checkpoint whose absent weights transformers has filled with random values."""
    if missing:
        raise BaseModelError(
            f"{source} lacks {len(missing)} weights of {type(model).__name__}, the first is {min(missing)}; "
            f"give the whole checkpoint of a causal language model"
        )
