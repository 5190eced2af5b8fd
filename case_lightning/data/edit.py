"""The record that the whole package speaks of: one edit, and the unrelated questions it must leave alone.

An `Edit` is immutable and checked when it is built, so whoever holds one holds a usable one. Its JSON form is one line
with the field names of the dataclass; a file of such lines is the package's own data format:

    {"id": "0", "prompt": "The capital of Freedonia is", "target": "Fredville", "subject": "Freedonia",
     "rephrases": ["Freedonia's capital is"], "locality": [{"prompt": "2 + 2 is", "answer": "4"}], "true_answer": null}
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Self

from case_lightning.data.fields import (
    field_error,
    first_text,
    list_texts,
    optional_text,
    read_id,
    require_object,
    require_text,
)
from case_lightning.errors import DataError


def _check_optional(value: object, name: str) -> None:
    if value is not None:
        require_text(value, name)


def _check_tuple(value: object, name: str, kind: type) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise field_error(name, f"a tuple of {kind.__name__}", value)


@dataclass(frozen=True, slots=True)
class Locality:
    """An unrelated prompt whose continuation an edit must not change.

    Args:
        prompt: The unrelated prompt.
        answer: Its true answer, or None where the data set gives none.
    """

    prompt: str
    answer: str | None = None

    def __post_init__(self) -> None:
        """Refuse blank text and anything that is not text."""
        require_text(self.prompt, "locality.prompt")
        _check_optional(self.answer, "locality.answer")


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to be written into a model.

    Texts are kept exactly as given, surrounding spaces included.

    Args:
        id: Unique in its data set.
        prompt: What the model is asked.
        target: What it shall answer from now on.
        subject: What the fact is about; where known, a part of the prompt.
        rephrases: Other ways to ask for the same target.
        locality: Unrelated questions to be left alone.
        true_answer: The answer that held before the edit, or holds in the world, where the data set gives one.

    Raises:
        DataError: If `id`, `prompt`, `target` or any text that is given is blank or not text.
    """

    id: str
    prompt: str
    target: str
    subject: str | None = None
    rephrases: tuple[str, ...] = ()
    locality: tuple[Locality, ...] = ()
    true_answer: str | None = None

    def __post_init__(self) -> None:
        """Refuse blank text and anything that is not text."""
        for name in ("id", "prompt", "target"):
            require_text(getattr(self, name), name)
        for name in ("subject", "true_answer"):
            _check_optional(getattr(self, name), name)
        _check_tuple(self.rephrases, "rephrases", str)
        _check_tuple(self.locality, "locality", Locality)
        for index, rephrase in enumerate(self.rephrases):
            require_text(rephrase, f"rephrases[{index}]")

    def to_json(self) -> str:
        """Return the edit as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read an edit from one line of JSON, the inverse of `to_json`.

        Raises:
            DataError: If the text is not JSON or not an edit.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"edit: broken JSON ({error})") from None
        return cls.from_fields(require_object(value, "edit"))

    @classmethod
    def from_fields(cls, fields: Mapping[str, object], default_id: str | None = None) -> Self:
        """Read an edit from a mapping under our own field names; a blank optional field counts as missing.

        Args:
            fields: The values by field name; names that are not ours are left aside.
            default_id: Stands in for a missing `id`; without it an edit must have one.

        Raises:
            DataError: If a field cannot be used.
        """
        return cls(
            id=read_id(fields, default_id),
            prompt=require_text(fields.get("prompt"), "prompt"),
            target=require_text(fields.get("target"), "target"),
            subject=optional_text(fields.get("subject"), "subject"),
            rephrases=list_texts(fields.get("rephrases"), "rephrases"),
            locality=tuple(_read_locality(fields.get("locality"))),
            true_answer=first_text(fields.get("true_answer"), "true_answer"),
        )

    def to(self, device: object, **_: object) -> Self:
        """Return the edit itself: text has no device.

        With this method Lightning hands an edit on as it is; without it, moving a batch to the device refuses any
        frozen dataclass.
        """
        return self


def _read_locality(value: object) -> Iterator[Locality]:
    if not (value is None or isinstance(value, (list, tuple))):
        raise field_error("locality", "a list of objects with prompt and answer", value)
    for index, item in enumerate(value or ()):
        name = f"locality[{index}]"
        fields = require_object(item, name)
        if prompt := optional_text(fields.get("prompt"), f"{name}.prompt"):
            yield Locality(prompt, first_text(fields.get("answer"), f"{name}.answer"))
