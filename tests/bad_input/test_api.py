"""What Python code gives that cannot be used."""

from collections.abc import Callable

import pytest
import torch

from case_lightning.base import load_base
from case_lightning.data import Edit, EditDataModule, EditReader, Locality, read_edits
from case_lightning.editing.run import open_scorer
from case_lightning.subspace import CaseConfig
from case_lightning.subspace.keys import RouterKeys
from tests.bad_input.place import Case, Place, check_case
from tests.editing.tiny_run import make_editor


def refused(where: str, call: Callable[[Place], object]) -> Case:
    return where, lambda place: place.refuse_call(lambda: call(place), kind=ValueError)


CASES: dict[str, Case] = {
    "an edit with a blank id": refused("Edit", lambda _: Edit(" ", "p", "t")),
    "an edit with no prompt": refused("Edit", lambda _: Edit("0", None, "t")),  # type: ignore[arg-type]
    "an edit with half a character": refused("Edit", lambda _: Edit("0", "p", "\ud83d")),
    "rephrases as one text": refused("Edit", lambda _: Edit("0", "p", "t", rephrases="r")),  # type: ignore[arg-type]
    "a blank unrelated prompt": refused("Locality", lambda _: Locality("")),
    "an edit of broken JSON": refused("Edit.from_json", lambda _: Edit.from_json("{")),
    "batches of half an edit": refused("EditDataModule", lambda _: EditDataModule("a.jsonl", batch_size=0.5)),  # type: ignore[arg-type]
    "a limit of true": refused("read_edits", lambda place: read_edits(place.data, limit=True)),
    "an unknown way to treat errors": refused("EditReader", lambda _: EditReader(on_error="stop")),  # type: ignore[arg-type]
    "a context of no tokens": refused(
        "EditDataModule.require_fit", lambda place: EditDataModule(place.data).require_fit(len, 0)
    ),
    "a dtype that is none": refused("load_base", lambda place: load_base(str(place.model), dtype="int3")),
    "no model": refused("load_base", lambda _: load_base("")),
    "a run with NUL in its name": (
        "open_scorer",
        lambda place: place.refuse_call(lambda: open_scorer("a\0b"), kind=OSError),
    ),
    "a negative rank": refused("CaseConfig", lambda _: CaseConfig(rank=-1)),
    "a threshold below 0": refused("CaseConfig", lambda _: CaseConfig(relation_threshold=-0.1)),
    "a router key of no token": refused(
        "RouterKeys.add", lambda _: RouterKeys().add(torch.tensor([]), torch.tensor([]), 0)
    ),
    "a layer that is not there": refused("Editor", lambda place: make_editor(place.model, base={"layer": 7})),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_call(case: str, place: Place) -> None:
    check_case("api", CASES, case, place)
