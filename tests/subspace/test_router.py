"""The router against its formulas restated with loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from case_lightning.subspace import UNEDITED, Router, TokenSpace
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.router import SLACK, WEAKEST, WHOLE
from case_lightning.subspace.whitening import RIDGE

VOCAB, WIDTH = 40, 16
THRESHOLDS = (0.8, 0.05)
LONDON, PARIS, MAYOR, OF, IS, YEAR_2011, YEAR_2012, GAMES, FRANCE = range(9)
CALIBRATION = torch.tensor(([OF, IS] * 20) + list(range(VOCAB)))


def build_embedding() -> Tensor:
    """Random directions; the two years lie close together, and the two words of grammar are short."""
    table = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(3))
    table[YEAR_2012] = table[YEAR_2011] + 0.8 * table[YEAR_2012]
    return table


EMBEDDING = build_embedding()
SPACE = TokenSpace(EMBEDDING, CALIBRATION)
GAMES_2012 = ([YEAR_2012, GAMES, OF, IS], [1, 1, 0, 0])
MAYOR_OF_LONDON = ([MAYOR, OF, LONDON, IS], [0, 0, 1, 0])
NO_SUBJECT = ([30, 31, OF], [0, 0, 0])
ONLY_SUBJECT = ([33], [1])


def build_router(*prompts: tuple[list[int], list[int]], thresholds: tuple[float, float] = THRESHOLDS) -> Router:
    keys = RouterKeys()
    for index, prompt in enumerate(prompts):
        add_key(keys, prompt, 10 + index)
    return Router(SPACE, keys, *thresholds)


def add_key(keys: RouterKeys, prompt: tuple[list[int], list[int]], subspace: int) -> None:
    keys.add(torch.tensor(prompt[0]), torch.tensor(prompt[1], dtype=torch.bool), subspace)


def match(router: Router, query: list[int]) -> int:
    return int(router.match(torch.tensor([query], dtype=torch.long)).item())


def whiten(token: int) -> list[float]:
    """The whitened embedding by way of an explicit inverse square root of the covariance's eigenvalues."""
    sample = EMBEDDING[CALIBRATION].double()
    mean = sample.mean(0)
    covariance = sum(torch.outer(row - mean, row - mean) for row in sample) / len(sample)
    variances, directions = torch.linalg.eigh(covariance)
    ridge = RIDGE * covariance.diagonal().mean()  # the mean variance is the mean of the diagonal as well
    centred = EMBEDDING[token].double() - mean
    return [float(centred @ directions[:, i]) / math.sqrt(variances[i] + ridge) for i in range(WIDTH)]


WHITENED = [whiten(token) for token in range(VOCAB)]


def naive_found(token: int, query: list[int]) -> float:
    best = 0.0
    for other in query:
        dot = sum(a * b for a, b in zip(WHITENED[token], WHITENED[other], strict=True))
        best = max(best, dot / (math.hypot(*WHITENED[token]) * math.hypot(*WHITENED[other])))
    return best


def naive_cover(tokens: list[int], by: list[int]) -> float:
    """How far tokens are found, weighted by their squared lengths."""
    weights = [math.hypot(*WHITENED[token]) ** 2 for token in tokens]
    covered = sum(weight * naive_found(token, by) for token, weight in zip(tokens, weights, strict=True))
    return covered / sum(weights) if tokens else 1.0


def naive_names(subject: list[int], query: list[int], threshold: float) -> bool:
    found = [naive_found(token, query) for token in subject]
    return sum(found) / len(found) >= threshold and min(found) >= WEAKEST


def naive_match(
    prompts: list[tuple[list[int], list[int]]], query: list[int], thresholds: tuple[float, float] = THRESHOLDS
) -> int:
    best, best_score = -1, -1.0
    for index, (tokens, marks) in enumerate(prompts):
        subject = [token for token, mark in zip(tokens, marks, strict=True) if mark]
        rest = [token for token, mark in zip(tokens, marks, strict=True) if not mark]
        if subject:
            named = naive_names(subject, query, thresholds[0])
            beside = [token for token in query if naive_found(token, subject) < WEAKEST]
            asked = [token for token in rest if naive_found(token, subject) < WEAKEST]
            in_scope = named and naive_cover(asked, beside) >= thresholds[1]
            if not rest:
                width = min(len(subject) + SLACK, len(query))
                stretches = [query[start : start + width] for start in range(len(query) - width + 1)]
                in_scope &= any(naive_names(subject, stretch, thresholds[0]) for stretch in stretches)
        else:
            in_scope = naive_cover(tokens, query) >= WHOLE
        score = round(naive_cover(tokens, query) + naive_cover(sorted(set(query)), tokens), 5)
        if in_scope and score >= best_score:
            best, best_score = index, score
    return best


def test_the_space_is_whitened() -> None:
    directions, weights = SPACE(torch.arange(VOCAB))
    lengths = torch.tensor([math.hypot(*vector) for vector in WHITENED])
    torch.testing.assert_close(weights, lengths.square(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(VOCAB))
    cosines = torch.nn.functional.normalize(torch.tensor(WHITENED), dim=1)
    torch.testing.assert_close(directions @ directions.T, cosines @ cosines.T, rtol=1e-3, atol=1e-3)
    assert weights[[OF, IS]].mean() < weights.median()  # common words weigh less than rare ones


def draw_prompts(generator: torch.Generator, n: int) -> list[tuple[list[int], list[int]]]:
    prompts = []
    for _ in range(n):
        length = int(torch.randint(1, 6, (1,), generator=generator))
        tokens = torch.randint(VOCAB, (length,), generator=generator).tolist()
        prompts.append((tokens, torch.randint(2, (length,), generator=generator).tolist()))
    return prompts


@pytest.mark.parametrize("thresholds", [THRESHOLDS, (0.6, 0.0), (0.3, 0.3), (1.0, 1.0)], ids=str)
def test_match_equals_the_formulas_restated_with_loops(thresholds: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    found, expected = [], []
    for _ in range(12):
        prompts = draw_prompts(generator, 6)
        router = build_router(*prompts, thresholds=thresholds)
        queries = [tokens for tokens, _ in draw_prompts(generator, 4)]
        queries += [[*prompts[i][0], *queries[i]] for i in range(3)]  # some that are in scope
        found += [match(router, query) for query in queries]
        # a token's cosine with itself may be a little less than 1
        expected += [naive_match(prompts, query, tuple(limit - 1e-5 for limit in thresholds)) for query in queries]
    assert found == expected
    assert len(set(found)) > 3


CASES = [
    ("the exact prompt", [YEAR_2012, GAMES, OF, IS], 0),
    ("in another order and with words around it", [25, IS, GAMES, 26, OF, YEAR_2012, 27], 0),
    ("the other edit's prompt", [MAYOR, OF, LONDON, IS], 1),
    ("nothing in common", [20, 21, 22], -1),
    ("another year", [YEAR_2011, GAMES, OF, IS], -1),
    ("another city", [MAYOR, OF, PARIS, IS], -1),
    ("only grammar in common", [OF, IS, 20], -1),
    ("half of the subject", [GAMES, OF, IS], -1),
    ("the whole prompt of an edit without a subject", [30, 31, OF], 2),
    ("only its grammar", [OF, 23, 24], -1),
    ("an edit that is nothing but its subject", [24, 33], 3),
    ("no tokens", [], -1),
]


@pytest.mark.parametrize(("query", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_scope(query: list[int], expected: int) -> None:
    router = build_router(GAMES_2012, MAYOR_OF_LONDON, NO_SUBJECT, ONLY_SUBJECT)
    assert match(router, query) == expected
    route = router.route(torch.tensor([query], dtype=torch.long)).tolist()
    assert route == [UNEDITED if expected < 0 else 10 + expected]


@pytest.mark.parametrize(
    ("query", "expected"), [([20, 34, 33, 21], 0), ([33, 20, 21, 34], 0), ([33, 20, 21, 22, 34], -1)], ids=str
)
def test_a_subject_alone_is_named_in_one_place(query: list[int], expected: int) -> None:
    assert match(build_router(([33, 34], [1, 1])), query) == expected
    assert match(build_router(([33, 34, 20], [1, 1, 0])), query) == 0  # with a relation, anywhere


@given(
    prompt=st.lists(st.tuples(st.integers(0, VOCAB - 1), st.integers(0, 1)), min_size=1, max_size=8),
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    around=st.lists(st.integers(0, VOCAB - 1), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_the_exact_prompt_is_always_in_scope(
    prompt: list[tuple[int, int]], thresholds: tuple[float, float], around: list[int]
) -> None:
    tokens, marks = [token for token, _ in prompt], [mark for _, mark in prompt]
    router = build_router((tokens, marks), thresholds=thresholds)
    assert match(router, tokens) == 0
    assert match(router, [*around, *tokens]) == 0


@given(
    subject=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5),
    query=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
    more=st.lists(st.integers(0, VOCAB - 1), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_more_tokens_never_lower_the_coverage_of_a_subject(
    subject: list[int], query: list[int], more: list[int]
) -> None:
    """Whatever the threshold, a subject that was named stays named; the least of all found tells the coverage."""

    def cover(tokens: list[int]) -> float:
        limits = torch.linspace(0, 1, 101).tolist()
        return max(
            limit
            for limit in limits
            if match(build_router((subject, [1] * len(subject)), thresholds=(limit, 0.0)), tokens) == 0 or limit == 0
        )

    assert cover([*query, *more]) >= cover(query)


def test_keys_added_later_are_seen() -> None:
    router = build_router()
    query = GAMES_2012[0]
    assert match(router, query) == -1
    add_key(router.keys, MAYOR_OF_LONDON, 0)
    assert match(router, query) == -1
    add_key(router.keys, GAMES_2012, 5)
    assert match(router, query) == 1
    assert router.route(torch.tensor([query])).tolist() == [5]


def test_as_many_other_keys_are_seen() -> None:
    """As after an edit was undone and another one made."""
    router = build_router(GAMES_2012)
    assert match(router, GAMES_2012[0]) == 0
    for name, buffer in build_router(MAYOR_OF_LONDON).keys.named_buffers():
        setattr(router.keys, name, buffer)
    assert match(router, GAMES_2012[0]) == -1
    assert match(router, MAYOR_OF_LONDON[0]) == 0


def test_keys_that_are_loaded_in_the_place_of_others_are_seen() -> None:
    router, other = build_router(GAMES_2012), build_router((GAMES_2012[0][::-1], GAMES_2012[1][::-1]))
    assert match(router, GAMES_2012[0]) == 0
    other.keys.tokens += 1
    router.keys.load_state_dict(other.keys.state_dict())
    assert match(router, other.keys.tokens.tolist()) == 0
    assert match(router, GAMES_2012[0]) == match(other, GAMES_2012[0]) == -1


def test_of_equal_edits_the_latest_answers() -> None:
    router = build_router(GAMES_2012, MAYOR_OF_LONDON, GAMES_2012)
    assert match(router, GAMES_2012[0]) == 2


def test_the_closer_of_two_edits_of_one_subject_answers() -> None:
    router = build_router(([LONDON, MAYOR, IS], [1, 0, 0]), ([LONDON, FRANCE, IS], [1, 0, 0]))
    assert match(router, [MAYOR, OF, LONDON, IS]) == 0
    assert match(router, [FRANCE, OF, LONDON, IS]) == 1


def test_masked_tokens_do_not_count() -> None:
    router = build_router(GAMES_2012)
    tokens = torch.tensor([[20, *GAMES_2012[0]]] * 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    assert router.match(tokens, mask).tolist() == [0, 0, -1, -1]
    assert router.match(tokens, mask.bool()).tolist() == [0, 0, -1, -1]
    assert router.match(tokens).tolist() == [0] * 4


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    router = build_router(GAMES_2012, MAYOR_OF_LONDON)
    rows = torch.tensor([GAMES_2012[0], MAYOR_OF_LONDON[0], [20, 21, 22, 23]])
    assert router.match(rows).tolist() == [0, 1, -1]
    for order in ([2, 0], [1], [1, 1, 0, 2]):
        assert router.match(rows[order]).tolist() == [[0, 1, -1][row] for row in order]


@pytest.mark.parametrize(("tokens", "marks"), [([], []), ([1, 2], [True])])
def test_a_key_needs_tokens_and_a_mark_for_each(tokens: list[int], marks: list[bool]) -> None:
    with pytest.raises(ValueError, match=f"found {len(tokens)} tokens and {len(marks)} marks"):
        RouterKeys().add(torch.tensor(tokens), torch.tensor(marks), 0)


def test_no_calibration_text() -> None:
    with pytest.raises(ValueError, match=r"no calibration text; give `keys.calibrate`"):
        TokenSpace(EMBEDDING, torch.tensor([], dtype=torch.int32))


def test_words_of_an_edit_without_a_subject_count_within_a_stretch() -> None:
    words, others = list(range(30, 36)), [20, 21] * 11
    router = build_router((words, [0] * 6))
    assert match(router, [*others, *words, *others]) == 0
    assert match(router, [*others, 34, 30, 22, 23, 35, *others]) == 0
    assert match(router, [token for word in words for token in (word, *others)]) == -1
