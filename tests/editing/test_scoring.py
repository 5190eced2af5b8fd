"""Scores against naive teacher forcing: one row at a time, its route forced, nothing batched."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from case_lightning.data import Edit, Locality
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.editor import Editor
from case_lightning.editing.encoding import Encoded
from case_lightning.editing.evaluation import evaluate_model
from case_lightning.editing.figures import make_examples, measure_overhead
from case_lightning.editing.scoring import Scorer, collect_questions
from case_lightning.subspace import UNEDITED
from tests.editing.tiny_run import UNRELATED, make_editor, make_edits

EDITS = make_edits(8)


@pytest.fixture(scope="module")
def editor(tiny_model: Path) -> Editor:
    """A model with some edits learned, some half learned."""
    editor = make_editor(tiny_model, training={"steps": 40, "n_variants": 0}, subspace={"rank": 8})
    for batch in (EDITS[:4], EDITS[4:]):
        editor.edit(batch)
    return editor


@pytest.fixture
def scorer(editor: Editor) -> Scorer:
    return Scorer(RoutedModel(editor.base, editor.model), batch_size=3)


@torch.no_grad()
def predict(scorer: Scorer, question: Encoded, route: int) -> torch.Tensor:
    """Logits at an answer's positions, `(answer, vocabulary)`."""
    with scorer.method.tuner.forced_routes(torch.tensor([route])):
        logits = scorer.base.model(input_ids=question.tokens[None]).logits[0].float()
    return logits[question.n_prompt - 1 : -1]


def naive_accuracy(scorer: Scorer, question: Encoded, route: int) -> float:
    return (predict(scorer, question, route).argmax(-1) == question.labels).float().mean().item()


@torch.no_grad()
def naive_generate(scorer: Scorer, question: Encoded, route: int, count: int) -> list[int]:
    """Greedy decoding without a cache."""
    tokens = question.prompt
    for _ in range(count):
        with scorer.method.tuner.forced_routes(torch.tensor([route])):
            tokens = torch.cat([tokens, scorer.base.model(input_ids=tokens[None]).logits[0, -1].argmax()[None]])
        if tokens[-1] == scorer.base.tokenizer.eos_token_id:
            break
    return tokens[question.n_prompt :].tolist()


def routes_of(scorer: Scorer, questions: list[Encoded]) -> list[int]:
    return scorer.method.route([question.prompt for question in questions]).tolist()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_prompts_are_in_scope_and_unrelated_questions_are_not(scorer: Scorer, editor: Editor) -> None:
    questions = collect_questions(scorer, EDITS)
    assert routes_of(scorer, questions.prompts) == [edit.subspace for edit in editor.past]
    assert set(routes_of(scorer, questions.unrelated)) == {UNEDITED}


@pytest.mark.parametrize("edited", [True, False])
def test_teacher_forcing_row_by_row(scorer: Scorer, edited: bool) -> None:
    questions = collect_questions(scorer, EDITS)
    asked = questions.prompts + questions.rephrases
    routes = routes_of(scorer, asked) if edited else [UNEDITED] * len(asked)
    for answer, question, route in zip(scorer.ask(asked, edited), asked, routes, strict=True):
        logits = predict(scorer, question, route)
        log_probabilities = logits.log_softmax(-1)
        nll = -mean([log_probabilities[place, label].item() for place, label in enumerate(question.labels.tolist())])
        assert torch.equal(answer.predicted, logits.argmax(-1))
        assert answer.nll == pytest.approx(nll, rel=1e-4)
        assert answer.accuracy == naive_accuracy(scorer, question, route)
        assert answer.exact == (answer.accuracy == 1)
        assert answer.logits is None


def test_figures_of_the_whole_model(scorer: Scorer) -> None:
    parts, details = evaluate_model(scorer, EDITS)
    questions = collect_questions(scorer, EDITS)
    for part, edited in (("pre", False), ("final", True)):
        found = parts[part]
        for name, asked in (("reliability", questions.prompts), ("generalization", questions.rephrases)):
            routes = routes_of(scorer, asked) if edited else [UNEDITED] * len(asked)
            shares = [naive_accuracy(scorer, one, route) for one, route in zip(asked, routes, strict=True)]
            assert found[name] == pytest.approx(mean(shares))
            exact = "exact_match" if name == "reliability" else "generalization_exact_match"
            assert found[exact] == pytest.approx(mean([share == 1 for share in shares]))
        nlls = torch.tensor([answer.nll for answer in scorer.ask(questions.prompts, edited)]).double().exp()
        assert found["perplexity"] == pytest.approx(nlls.mean().item(), rel=1e-5)
        assert found["perplexity_median"] == pytest.approx(statistics.median(nlls.tolist()), rel=1e-5)
    assert parts["final"]["reliability"] > parts["pre"]["reliability"]
    assert [one["reliability"] for one in details] == [answer.accuracy for answer in scorer.ask(questions.prompts)]
    assert mean([one["generalization"] for one in details]) == pytest.approx(parts["final"]["generalization"])


def test_locality_is_one_to_the_bit_where_nothing_is_in_scope(scorer: Scorer) -> None:
    parts, _ = evaluate_model(scorer, EDITS, generate=False)
    assert parts["pre"]["locality"] == parts["final"]["locality"] == parts["final"]["locality_bit_identical"] == 1.0
    found = collect_questions(scorer, EDITS)
    answered = [question for question, has_answer in zip(found.unrelated, found.answered, strict=True) if has_answer]
    assert len(answered) == len(EDITS) == len(found.unrelated) / 2  # one of two has none, and no part in the harness's
    expected = mean([naive_accuracy(scorer, question, UNEDITED) for question in answered])
    assert parts["harness"]["locality"] == parts["harness"]["locality_unedited"] == pytest.approx(expected)


def test_locality_falls_where_unrelated_prompts_are_in_scope(scorer: Scorer) -> None:
    """Every unrelated prompt is made one of the edits' own; half of the pairs must differ in some bit."""
    hit = Locality(EDITS[0].prompt, EDITS[1].target)
    edit = Edit(id="1", prompt="Who is", target="old", locality=(hit, Locality(UNRELATED, "minister")))
    parts, _ = evaluate_model(scorer, [edit], generate=False)
    (question, _) = collect_questions(scorer, [edit]).unrelated
    route = routes_of(scorer, [question])[0]
    agree = predict(scorer, question, route).argmax(-1) == predict(scorer, question, UNEDITED).argmax(-1)
    assert parts["final"]["locality"] == pytest.approx((agree.float().mean().item() + 1) / 2)
    assert parts["final"]["locality_bit_identical"] == 0.5


def test_without_anything_to_score_figures_are_absent(scorer: Scorer) -> None:
    parts, _ = evaluate_model(scorer, [Edit(id="1", prompt="Who is", target="old")], generate=False)
    final = parts["final"]
    absent = {name for name, value in final.items() if value is None}
    generated = {"generated_exact_match", "generated_generalization_exact_match"}
    unscored = {"generalization", "generalization_exact_match", "locality", "locality_bit_identical"}
    assert absent == generated | unscored
    assert parts["pre"]["locality"] is None
    assert parts["harness"] == {"locality": None, "locality_unedited": None}


def test_no_answer_outgrows_the_context(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long prompt and a long answer, of two edits, each of which fits."""
    asked: list[int] = []
    make = scorer.generate_batch

    def note(prompts: list[torch.Tensor], max_new_tokens: int, *rest: Any, **more: Any) -> torch.Tensor:
        asked.append(max(map(len, prompts)) + max_new_tokens)
        return make(prompts, max_new_tokens, *rest, **more)

    monkeypatch.setattr(scorer, "generate_batch", note)
    most = scorer.base.context_length
    edits = [
        Edit(id="1", prompt="is " * (most - 3) + "Who", target="old"),
        Edit(id="2", prompt="Who is", target=" ".join(["old"] * (most - 5))),
    ]
    parts, details = evaluate_model(scorer, edits)
    assert parts["final"]["generated_exact_match"] is not None
    assert len(make_examples(scorer, edits, details)) == 2
    assert measure_overhead(scorer, edits) is not None
    assert max(asked) == most
    prompts = [edit.prompt for edit in edits]
    assert scorer.generate(prompts, 3) == [scorer.generate([prompt], 3)[0] for prompt in prompts]


def test_generated_answers_row_by_row(scorer: Scorer) -> None:
    """Batched, left-padded and cached generation finds what greedy decoding of each row alone finds."""
    questions = collect_questions(scorer, EDITS)
    asked = questions.prompts + questions.rephrases
    expected = [
        naive_generate(scorer, question, route, len(question.labels)) == question.labels.tolist()
        for question, route in zip(asked, routes_of(scorer, asked), strict=True)
    ]
    assert scorer.matches(asked) == expected
    assert any(expected)
    parts, _ = evaluate_model(scorer, EDITS)
    assert parts["final"]["generated_exact_match"] == pytest.approx(mean(expected[: len(EDITS)]))
    assert parts["final"]["generated_generalization_exact_match"] == pytest.approx(mean(expected[len(EDITS) :]))


@pytest.mark.parametrize("edited", [True, False])
def test_free_answers(scorer: Scorer, edited: bool) -> None:
    prompts = [edit.prompt for edit in EDITS] + [UNRELATED, "On the table", EDITS[0].rephrases[0], "When"]
    questions = [scorer.encode(prompt, ".") for prompt in prompts]
    routes = routes_of(scorer, questions) if edited else [UNEDITED] * len(questions)
    expected = [naive_generate(scorer, one, route, 5) for one, route in zip(questions, routes, strict=True)]
    decoded = [scorer.base.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]
    assert scorer.generate(prompts, 5, edited) == decoded


def test_a_checkpoint_s_own_habits_of_generation_are_left_out(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [edit.prompt for edit in EDITS] + [UNRELATED]
    model = scorer.base.model
    plain = scorer.generate(prompts, 8)
    own = GenerationConfig(**model.generation_config.to_diff_dict() | {"repetition_penalty": 5.0})
    monkeypatch.setattr(model, "generation_config", own)
    assert scorer.generate(prompts, 8) == plain
    assert model.generation_config is own


def test_an_unrelated_prompt_without_an_answer_is_scored_all_the_same(scorer: Scorer) -> None:
    unrelated = collect_questions(scorer, EDITS[:1]).unrelated
    assert [len(question.labels) for question in unrelated] == [1, 1]
