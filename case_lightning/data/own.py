"""Our own records, as JSON or as the cells of a table.

A table has no lists, so a cell may hold one as JSON text: `rephrases` a list of texts (or simply one text), `locality`
a list of objects. A table with one unrelated question a row may instead name its columns `locality_prompt` and
`locality_answer`.
"""

import json
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches

from case_lightning.data.edit import Edit
from case_lightning.data.fields import describe_value
from case_lightning.errors import DataError

QUOTED = ("['", '["')  # how a list of texts begins, in Python and in JSON
OWN_FIELDS = (*(field.name for field in dataclass_fields(Edit)), "locality_prompt", "locality_answer")


def read_own(fields: Mapping[str, object], default_id: str) -> Edit:
    """Read a record under our own field names.

    Raises:
        DataError: If a field cannot be used, or looks like a misspelt name of ours.
    """
    _refuse_misspelt(fields)
    values = dict(fields)
    for name in ("rephrases", "locality"):
        values[name] = _parse_cell(name, values.get(name))
    if values["locality"] is None or values["locality"] == []:
        values["locality"] = [{"prompt": values.get("locality_prompt"), "answer": values.get("locality_answer")}]
    return Edit.from_fields(values, default_id)


def _parse_cell(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith("["):
        return value if text else None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith(QUOTED):
            raise DataError(f"{name}: expected a list as JSON text, found {describe_value(text)}") from None
        return value  # a text that happens to open with a bracket, such as "[MASK] is the capital of"


def _refuse_misspelt(fields: Mapping[str, object]) -> None:
    absent = [name for name in OWN_FIELDS if name not in fields]
    for name in fields:
        close = get_close_matches(name, absent, n=1, cutoff=0.85) if name not in OWN_FIELDS else []
        if close:
            raise DataError(f"{name}: expected a field of an edit, did you mean {close[0]}?")
