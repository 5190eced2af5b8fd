"""What texts ask by the model's states: against formulas restated with loops, in the router, and in a saved adapter."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from case_lightning.base import find_architecture
from case_lightning.base.suffix import Prefix
from case_lightning.subspace import Router, relation
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.relation import PIECE, RelationSpace, find_boundaries
from case_lightning.subspace.whitening import RIDGE
from tests.editing.tiny_run import build_tokenizer
from tests.subspace.test_router import FRANCE, IS, LONDON, MAYOR, OF, PARIS, SPACE, VOCAB, match
from tests.subspace.tiny_adapters import OTHER, PROMPT, SUBJECT, build_adapter, build_base, draw_tokens

STOP, HIDDEN = 39, 5
TABLE = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(2))
TABLE[20:24] = TABLE[20] + 0.05 * TABLE[20:24]  # words that ask the same
CALIBRATION = torch.arange(VOCAB).repeat(4)
ASKED, ALSO_ASKED, ELSE = [20, 21], [22, 23], [30, 31]  # what a question says beside its subject


def look_up(texts: Sequence[Tensor]) -> list[Tensor]:
    """States of a model without attention: what stands around a token does not change it."""
    return [TABLE[text] for text in texts]


def never(texts: Sequence[Tensor]) -> list[Tensor]:
    raise AssertionError(f"words alone tell, but states of {texts} were asked for")


def build_space(states: object = look_up) -> RelationSpace:
    return RelationSpace(states, CALIBRATION, [STOP])  # type: ignore[arg-type]


def naive_direction(tokens: list[int], counted: list[int]) -> Tensor:
    sample = torch.cat([TABLE[piece[1:]] for piece in CALIBRATION.split(PIECE)]).double()
    mean = sum(sample) / len(sample)
    covariance = sum(torch.outer(row - mean, row - mean) for row in sample) / len(sample)
    variances, directions = torch.linalg.eigh(covariance)
    ridge = RIDGE * covariance.diagonal().mean()
    total = torch.zeros(HIDDEN, dtype=torch.float64)
    for place in counted:
        for i in range(HIDDEN):
            total[i] += (TABLE[tokens[place]].double() - mean) @ directions[:, i] / (variances[i] + ridge).sqrt()
    return total / total.norm()


@pytest.mark.parametrize(
    ("tokens", "marks", "counted"),
    [
        ([5, 6, 7, 8], [1, 0, 1, 1], [2, 3]),  # never the first
        ([5, 6, 7, STOP], [1, 1, 1, 1], [1, 2]),  # nor what ends a sentence
        ([5, 6, 7], [1, 0, 0], [1, 2]),  # where none is left, all but the first
        ([5], [1], [0]),
        ([5, STOP], [0, 1], [1]),
    ],
)
def test_a_direction_is_the_whitened_mean_of_what_counts(
    tokens: list[int], marks: list[int], counted: list[int]
) -> None:
    space, given = build_space(), torch.tensor(marks, dtype=torch.bool)
    for _ in range(2):  # computed, and remembered
        found = space(torch.tensor(tokens, dtype=torch.int32), given)
        torch.testing.assert_close(found.double(), naive_direction(tokens, counted), rtol=1e-3, atol=1e-3)
    assert given.tolist() == [bool(mark) for mark in marks]


def test_no_more_directions_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def note(texts: Sequence[Tensor]) -> list[Tensor]:
        asked.extend(text.tolist() for text in texts if len(text) == 3)
        return look_up(texts)

    monkeypatch.setattr(relation, "KNOWN", 2)
    space = build_space(note)
    for last in (7, 8, 7, 9, 7, 8):
        space(torch.tensor([5, 6, last]), torch.ones(3, dtype=torch.bool))
    assert [text[-1] for text in asked] == [7, 8, 9, 8]  # what was asked of last is known


@pytest.mark.parametrize(
    ("tokens", "first", "last", "start", "end"),
    [
        ([1, 2, 3], 1, 1, 0, 3),
        ([1, STOP, 2, 3, STOP, 4], 2, 3, 2, 5),
        ([1, STOP, 2, STOP, 3, STOP, 4], 2, 4, 2, 6),  # a subject that holds an end
        ([STOP, STOP, 2], 2, 2, 2, 3),
        ([1] * 300, 150, 151, 150 - PIECE, 152 + PIECE),
    ],
)
def test_the_sentence_around_a_subject(tokens: list[int], first: int, last: int, start: int, end: int) -> None:
    assert build_space().cut_sentence(torch.tensor(tokens), first, last) == slice(start, end)


def build_router(*asked: list[int], states: object = look_up, threshold: float = 0.5) -> Router:
    """A key for each way to ask about Paris."""
    keys = RouterKeys()
    for index, words in enumerate(asked):
        tokens = [OF, PARIS, *words]
        keys.add(torch.tensor(tokens), torch.tensor([token == PARIS for token in tokens]), index)
    return Router(SPACE, keys, 0.8, threshold, build_space(states))


@pytest.mark.parametrize(
    ("query", "in_scope"),
    [
        ([IS, PARIS, *ALSO_ASKED], True),  # no word of the key, but it asks the same
        ([IS, PARIS, *ELSE], False),
        ([IS, LONDON, *ALSO_ASKED], False),
        ([IS, *ALSO_ASKED], False),
        ([*ELSE, MAYOR, STOP, IS, PARIS, *ALSO_ASKED, STOP, *ELSE, FRANCE], True),  # whatever is said around it
        ([*ALSO_ASKED, STOP, IS, PARIS, *ELSE], False),  # asked, but of something else
        ([IS, PARIS, STOP, IS, PARIS, *ALSO_ASKED], True),  # the last time it is named
    ],
)
def test_a_query_has_to_ask_the_same(query: list[int], in_scope: bool) -> None:
    assert match(build_router(ASKED), query) == (0 if in_scope else -1)


def test_words_that_make_it_certain_do_so_at_any_threshold() -> None:
    for threshold in (0.5, 0.9):
        assert match(build_router(ASKED, states=never, threshold=threshold), [IS, PARIS, ASKED[0], *ELSE]) == 0


def test_a_key_that_asks_something_else_leaves_it_to_one_that_does() -> None:
    assert match(build_router(ELSE, ASKED), [IS, PARIS, *ALSO_ASKED]) == 1
    assert match(build_router(ASKED, ELSE), [IS, PARIS, *ALSO_ASKED]) == 0


def test_words_that_are_certain_need_no_states() -> None:
    router = build_router(ASKED, states=never)
    assert match(router, [OF, PARIS, *ASKED]) == 0
    assert match(router, [IS, MAYOR, FRANCE]) == -1
    with pytest.raises(AssertionError, match="states of"):
        match(router, [IS, PARIS, *ALSO_ASKED])


def test_ends_of_sentences_and_special_tokens_are_found() -> None:
    tokenizer = build_tokenizer()
    found = set(tokenizer.convert_ids_to_tokens(find_boundaries(tokenizer)))
    assert found >= {".", "?", "</s>", "<pad>"}
    assert not found & {"The", "capital", "of"}


SETTINGS = {"relation_layer": 1, "boundary_tokens": [STOP], "relation_threshold": 0.3}


def test_a_saved_adapter_routes_as_before_and_leaves_no_hook(tmp_path: Path) -> None:
    model = build_adapter(build_base(), **SETTINGS)
    asked = [*SUBJECT, 23, 24, 25]
    queries = torch.tensor([PROMPT, OTHER, asked, [50, 51, 52, 53, 54]])
    router = model.base_model.router
    base = build_base()
    space = RelationSpace(Prefix(base, find_architecture(base), 1), router.keys.calibration, [STOP])
    beside = torch.tensor([False, False, True, True, True])
    alike = float(space(torch.tensor(PROMPT), beside) @ space(torch.tensor(asked), beside))
    expected = [0, 1, 0 if alike >= 0.3 else -1, -1]
    assert abs(alike - 0.3) > 0.01
    before = sum(len(one._forward_pre_hooks) + len(one._forward_hooks) for one in model.modules())
    assert router.route(queries).tolist() == expected
    assert sum(len(one._forward_pre_hooks) + len(one._forward_hooks) for one in model.modules()) == before
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(build_base(), str(tmp_path)).base_model
    assert loaded.peft_config["default"].boundary_tokens == [STOP]
    assert loaded.router.route(queries).tolist() == expected


def test_routing_beside_a_forward_of_another_thread_disturbs_neither() -> None:
    model = build_adapter(build_base(), **SETTINGS)
    tokens, found, unedited = draw_tokens(4, 12), [], torch.full((4,), -1)
    with torch.no_grad(), model.base_model.forced_routes(unedited):
        alone = model(tokens).logits
    stop = threading.Event()

    def ask() -> None:
        space = model.base_model.router.relations
        while not stop.is_set():
            space._known.clear()
            found.append(space(torch.tensor(PROMPT), torch.ones(5, dtype=torch.bool)))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(30):
            with torch.no_grad(), model.base_model.forced_routes(unedited):
                assert torch.equal(model(tokens).logits, alone)
    finally:
        stop.set()
        thread.join()
    assert len(found) > 1
    assert all(torch.equal(one, found[0]) for one in found)
