"""CounterFact in its original nested layout, as ROME, MEMIT and AlphaEdit read it.

    case_id, requested_rewrite {prompt with {} for the subject, subject, target_new {str}, target_true {str}},
    paraphrase_prompts, neighborhood_prompts

A neighbourhood prompt asks the edit's relation of another subject for which `target_true` is right as well, so that is
its answer. `attribute_prompts` and `generation_prompts` are left aside. Paraphrases keep the unrelated sentence with
which they were published.

Source: Meng et al., Locating and Editing Factual Associations in GPT (ROME), 2022; https://rome.baulab.info.
"""

from collections.abc import Iterator, Mapping

from case_lightning.data.easyedit import pair_locality, read_easyedit
from case_lightning.data.edit import Edit, Locality
from case_lightning.data.fields import (
    field_error,
    list_texts,
    optional_text,
    read_id,
    require_object,
    require_text,
)

_SLOT = "{}"


def read_counterfact(fields: Mapping[str, object], default_id: str) -> Edit:
    """Read a CounterFact record, nested or in EasyEdit's flat layout.

    Raises:
        DataError: If a field cannot be used.
    """
    if "requested_rewrite" not in fields and "target_new" in fields:
        return read_easyedit(fields, default_id)
    rewrite = require_object(fields.get("requested_rewrite"), "requested_rewrite")
    true_answer = optional_text(_unwrap(rewrite.get("target_true")), "requested_rewrite.target_true")
    return Edit(
        id=read_id(fields, default_id),
        prompt=_fill_prompt(rewrite),
        target=require_text(_unwrap(rewrite.get("target_new")), "requested_rewrite.target_new"),
        subject=optional_text(rewrite.get("subject"), "requested_rewrite.subject"),
        rephrases=list_texts(fields.get("paraphrase_prompts"), "paraphrase_prompts"),
        locality=tuple(_read_neighbours(fields.get("neighborhood_prompts"), true_answer)),
        true_answer=true_answer,
    )


def _unwrap(target: object) -> object:
    return target.get("str") if isinstance(target, Mapping) else target


def _fill_prompt(rewrite: Mapping[str, object]) -> str:
    prompt = require_text(rewrite.get("prompt"), "requested_rewrite.prompt")
    if _SLOT not in prompt:
        return prompt
    return prompt.replace(_SLOT, require_text(rewrite.get("subject"), "requested_rewrite.subject"))


def _read_neighbours(value: object, true_answer: str | None) -> Iterator[Locality]:
    name = "neighborhood_prompts"
    if isinstance(value, str):
        value = [value]
    if not (value is None or isinstance(value, (list, tuple))):
        raise field_error(name, "a list of texts", value)
    for neighbour in value or ():
        if isinstance(neighbour, Mapping):  # some re-releases give each neighbour its own answer
            yield from pair_locality(neighbour.get("prompt"), neighbour.get("target", true_answer), name)
        else:
            yield from pair_locality(neighbour, true_answer, name)
