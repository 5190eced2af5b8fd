"""What is refused before any edit is made: numbers that cannot work, and texts that a model has no room for."""

import math
from collections.abc import Sequence
from operator import attrgetter

from case_lightning.base import Base
from case_lightning.config import RunSettings
from case_lightning.data import Edit, check_fits
from case_lightning.data.fields import require_text
from case_lightning.editing.encoding import encode_prompt
from case_lightning.errors import ConfigError, DataError

ABOVE_ZERO = (
    "training.steps",
    "training.learning_rate",
    "training.mask_size",
    "subspace.rank",
    "subspace.scale",
    "conflict.capacity",
    "conflict.max_subspaces",
    "memory.temperature",
    "consolidation.passes",
    "consolidation.edits",
    "consolidation.batch_size",
    "evaluation.batch_size",
    "trainer.devices",
    "trainer.num_nodes",
)
ZERO_OR_MORE = (
    "training.weight_decay",
    "training.n_rehearsed",
    "training.protection",
    "training.n_variants",
    "subspace.n_directions",
    "memory.size",
    "memory.weight",
    "consolidation.every",
    "evaluation.retention_points",
    "seed",
)
AT_MOST = {"subspace.rank": 1 << 20, "subspace.n_directions": 1 << 20, "seed": (1 << 32) - 1}
ZERO_TO_ONE = ("subspace.subject_threshold", "subspace.relation_threshold")


def check_settings(settings: RunSettings) -> None:
    """Refuse numbers that cannot work, before anything is loaded.

    Raises:
        ConfigError: The message names the key, the value and what is accepted.
    """
    for key in (*ABOVE_ZERO, *ZERO_OR_MORE, *ZERO_TO_ONE, "conflict.threshold"):
        value = attrgetter(key)(settings)
        if value is None:  # left to its default
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{key}: expected a finite number, found {value}")
        if key in ABOVE_ZERO and value <= 0:
            raise ConfigError(f"{key}: expected a number above 0, found {value}")
        if key in ZERO_OR_MORE and value < 0:
            raise ConfigError(f"{key}: expected 0 or more, found {value}")
        if key in ZERO_TO_ONE and not 0 <= value <= 1:
            raise ConfigError(f"{key}: expected 0 to 1, found {value}")
        if value > AT_MOST.get(key, math.inf):
            raise ConfigError(f"{key}: expected at most {AT_MOST[key]}, found {value}")
    precision = settings.trainer.precision
    if precision.endswith("-true") and precision != "32-true":
        raise ConfigError(
            f"trainer.precision: expected 32-true or a mixed one, as subspaces are trained in float32, found "
            f"{precision}; the frozen model's own is base.dtype"
        )


def count_tokens(base: Base, text: str) -> int:
    """Length of a text in tokens, special tokens included."""
    return len(encode_prompt(base.tokenizer, text))


def check_prompt(base: Base, prompt: str, max_new_tokens: int) -> None:
    """Refuse a prompt that cannot be answered, or not in so many tokens.

    Raises:
        DataError: It is not text, has no token, or does not fit the context together with its answer.
    """
    require_text(prompt, "--prompt")
    found, most = count_tokens(base, prompt), base.context_length
    if found <= count_tokens(base, ""):
        raise DataError(f"--prompt: expected text that has tokens, found none in {prompt!r}")
    if found + max_new_tokens > most:
        raise DataError(
            f"--prompt: expected it to fit the context of {most} tokens with an answer of {max_new_tokens}, found "
            f"{found} tokens; shorten it, or lower --max_new_tokens"
        )


def check_records(base: Base, edits: Sequence[Edit], n_end: int = 0) -> None:
    """Refuse edits that do not fit the model's context, with so many tokens behind the target.

    Raises:
        DataError: The message names the edit and both lengths.
    """
    for edit in edits:
        check_fits(edit, lambda text: count_tokens(base, text), base.context_length, n_end)
