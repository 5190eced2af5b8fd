"""Restoring how a GGUF file's tokenizer splits numbers.

A GGUF file names its rule for cutting text before the merges apply (`tokenizer.ggml.pre`). transformers knows many of
these names, but takes `smollm` for plain GPT-2, which lets a number take the blank or line break before it out of a run
of them. SmolLM's rule sets every digit apart first. Words come out the same either way; a number after an empty line or
after several blanks does not.
"""

from pathlib import Path

from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

RULE_KEY = "tokenizer.ggml.pre"
DIGIT_RULES = frozenset({"smollm"})


def restore_digit_split(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """Set every digit apart, in place, if that is the rule that the GGUF file names.

    Args:
        tokenizer: The tokenizer that transformers made of the file.
        gguf: The file.
    """
    field = GGUFReader(gguf).get_field(RULE_KEY)
    if field is None or field.contents() not in DIGIT_RULES:
        return
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
