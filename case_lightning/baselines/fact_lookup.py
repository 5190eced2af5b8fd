"""Where a model looks a fact up in a prompt: at the subject's last token, whatever stands before it.

MEMIT and what builds on it edit the state at the subject's last token [1, section 4.1]. So that the state is changed in
every text and not in one prompt, the prompt is also read behind some short texts which the model wrote itself.

An edit without a subject, or whose prompt does not contain it, is looked up at its prompt's last token, and so is every
edit of a tokenizer that does not tell where its tokens stand. Ours: the papers demand a subject.

References:
    [1] Meng, Bau, Andonian, Belinkov: Locating and editing factual associations in GPT. NeurIPS 2022.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from case_lightning.base import Base
from case_lightning.data import Edit
from case_lightning.data.subjects import find_subject
from case_lightning.editing.encoding import Encoded, encode

OPENINGS = ("The", "Therefore", "Because", "I", "You")
PREFIX_TOKENS = 10  # written after an opening
LIKELIEST = 5  # tokens of which each is drawn
PLAIN = ""  # the prefix of a prompt alone


@dataclass(frozen=True)
class Lookup:
    """An edit's text and the place in it where its fact is looked up.

    Attributes:
        encoded: Prompt, behind a prefix, and target.
        position: Index of the token.
    """

    encoded: Encoded
    position: int


def look_up(tokenizer: PreTrainedTokenizerBase, edit: Edit, prefix: str = PLAIN) -> Lookup:
    """Find where an edit's fact is looked up.

    Args:
        tokenizer: The base model's.
        edit: The edit.
        prefix: Text before its prompt.
    """
    text = prefix + edit.prompt
    encoded = encode(tokenizer, text, edit.target)
    last = encoded.n_prompt - 1
    span = find_subject(edit.prompt, edit.subject)
    if span is None or not tokenizer.is_fast:
        return Lookup(encoded, last)
    start, end = len(prefix) + span[0], len(prefix) + span[1]
    offsets = tokenizer(text.rstrip(), return_offsets_mapping=True, split_special_tokens=True)["offset_mapping"]
    touching = [index for index, (first, after) in enumerate(offsets) if first < end and after > start]
    return Lookup(encoded, touching[-1] if touching else last)


def look_up_essence(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> Lookup | None:
    """The prompt `<subject> is a`, which asks what the subject is; `None` for an edit that is looked up without one."""
    if find_subject(edit.prompt, edit.subject) is None or not tokenizer.is_fast:
        return None
    found = look_up(tokenizer, Edit(edit.id, f"{edit.subject} is a", edit.target, edit.subject))
    prompt = found.encoded.prompt
    return Lookup(Encoded(prompt, len(prompt)), found.position)


def write_prefixes(base: Base, count: int, seed: int) -> list[str]:
    """Short texts by the model itself, to put before prompts, and none at all as the first.

    Args:
        base: The base model, unedited.
        count: How many texts beside none.
        seed: Of what the model writes.
    """
    prefixes = [PLAIN]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for index in range(count):
            tokens = base.tokenizer(OPENINGS[index % len(OPENINGS)], return_tensors="pt").to(base.model.device)
            written = base.model.generate(  # type: ignore[operator]
                **tokens, do_sample=True, top_k=LIKELIEST, max_new_tokens=PREFIX_TOKENS
            )
            prefixes.append(str(base.tokenizer.decode(written[0], skip_special_tokens=True)) + ". ")
    return prefixes
