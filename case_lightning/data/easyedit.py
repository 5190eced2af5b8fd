"""EasyEdit's flat layout, which WISE and KnowEdit share.

SelfCheckGPT / WikiBio, flat CounterFact and the temporal set are this layout with some optional fields absent. What
holds one text in one of these files is a list, or a list of lists of accepted answers, in another; the first counts.

    prompt, target_new, subject (KnowEdit's WikiBio: text, labels, concept), ground_truth, rephrase_prompt or rephrase,
    locality_prompt and locality_ground_truth, or locality {name: {prompt, ground_truth} or a list of such objects}

Left aside on purpose: `portability`, which asks for inference over an edit rather than for the edit; and the temporal
set's `ood_rephrase`. That is no rephrase of the prompt but a whole passage on the subject by another author, which
mostly opens with the prompt itself and goes on differently, so that the target is not an answer to it.

Source: https://github.com/zjunlp/EasyEdit, `easyeditor/dataset/`.
"""

from collections.abc import Iterator, Mapping

from case_lightning.data.edit import Edit, Locality
from case_lightning.data.fields import (
    field_error,
    first_text,
    list_texts,
    optional_text,
    read_id,
    require_object,
    require_text,
)


def read_easyedit(fields: Mapping[str, object], default_id: str) -> Edit:
    """Read one flat record.

    Raises:
        DataError: If a field cannot be used.
    """
    prompt = _pick_name(fields, "prompt", "text")
    target = _pick_name(fields, "target_new", "labels")
    subject = _pick_name(fields, "subject", "concept")
    rephrase = _pick_name(fields, "rephrase_prompt", "rephrase")
    return Edit(
        id=read_id(fields, default_id),
        prompt=require_text(fields.get(prompt), prompt),
        target=require_text(fields.get(target), target),
        subject=optional_text(fields.get(subject), subject),
        rephrases=list_texts(fields.get(rephrase), rephrase),
        locality=(*_read_flat_locality(fields), *_read_named_locality(fields.get("locality"))),
        true_answer=first_text(fields.get("ground_truth"), "ground_truth"),
    )


def pair_locality(prompt: object, answer: object, name: str) -> Iterator[Locality]:
    """Pair one prompt with the first of its answers, or a list of prompts with a list of as many answers.

    Args:
        prompt: A text or a list of texts; a blank prompt gives no pair.
        answer: A text, or a list in which each item holds the answers of one prompt.
        name: The field that holds the prompt.

    Raises:
        DataError: If there are more prompts than one and the answers are not as many.
    """
    if not prompt:
        return
    if not isinstance(prompt, (list, tuple)) or len(prompt) == 1:
        prompt, answer = [prompt], [answer]
    answer = [None] * len(prompt) if answer is None else answer
    if not isinstance(answer, (list, tuple)) or len(answer) != len(prompt):
        raise field_error(name, f"one list of answers for each of its {len(prompt)} prompts", answer)
    for one, accepted in zip(prompt, answer, strict=True):
        if text := first_text(one, name):
            yield Locality(text, first_text(accepted, f"{name} (its answer)"))


def _pick_name(fields: Mapping[str, object], name: str, other: str) -> str:
    return other if fields.get(name) is None and fields.get(other) is not None else name


def _read_flat_locality(fields: Mapping[str, object]) -> Iterator[Locality]:
    prompt, answer = fields.get("locality_prompt"), fields.get("locality_ground_truth")
    return pair_locality(prompt, answer, "locality_prompt")


def _read_named_locality(value: object) -> Iterator[Locality]:
    if not value:
        return
    for group, entries in require_object(value, "locality").items():
        for entry in entries if isinstance(entries, (list, tuple)) else (entries,):
            if entry is not None:
                name = f"locality.{group}"
                pair = require_object(entry, name)
                yield from pair_locality(pair.get("prompt"), pair.get("ground_truth"), f"{name}.prompt")
