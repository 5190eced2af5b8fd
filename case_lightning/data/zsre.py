"""ZsRE as MEND wrote it and EasyEdit and WISE took it over: questions, each with a rephrase and an unrelated question.

    src the prompt, alt the target, rephrase, loc and loc_ans an unrelated question and its answer, subject,
    answers the true answers

The unrelated questions come from Natural Questions with a literal `nq question: ` in front; it is kept, as published
locality is measured on the question with it. `pred` (what the model of its authors said), `cond` and `portability` are
left aside.

Source: Mitchell et al., Fast Model Editing at Scale (MEND), 2022; https://github.com/zjunlp/EasyEdit.
"""

from collections.abc import Mapping

from case_lightning.data.easyedit import pair_locality, read_easyedit
from case_lightning.data.edit import Edit
from case_lightning.data.fields import first_text, list_texts, optional_text, read_id, require_text


def read_zsre(fields: Mapping[str, object], default_id: str) -> Edit:
    """Read a ZsRE record, in MEND's layout or in EasyEdit's flat one.

    Raises:
        DataError: If a field cannot be used.
    """
    if "src" not in fields and "target_new" in fields:
        return read_easyedit(fields, default_id)
    return Edit(
        id=read_id(fields, default_id),
        prompt=require_text(fields.get("src"), "src"),
        target=require_text(fields.get("alt"), "alt"),
        subject=optional_text(fields.get("subject"), "subject"),
        rephrases=list_texts(fields.get("rephrase"), "rephrase"),
        locality=tuple(pair_locality(fields.get("loc"), fields.get("loc_ans"), "loc")),
        true_answer=first_text(fields.get("answers"), "answers"),
    )
