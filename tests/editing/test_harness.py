"""lm-evaluation-harness on an edited model: its own Hugging Face model, and ours that routes by the question alone."""

from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from case_lightning import fit
from case_lightning.editing.harness import RoutedHFLM
from case_lightning.editing.loading import LoadedRun, load_run
from case_lightning.subspace.held import Routes
from tests.editing.tiny_run import UNRELATED, command, make_edits, write_edits

EDITS = make_edits(4)
NAMING = f"{EDITS[0].prompt} {EDITS[0].target}"  # an answer that spells an edited question
ASKED = [
    (UNRELATED, "minister"),
    (EDITS[0].prompt, EDITS[0].target),
    (UNRELATED, NAMING),
    (EDITS[1].prompt, "minister"),
    (EDITS[0].rephrases[0], EDITS[1].target),
]


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("harness")
    fit.main(command(tiny_model, write_edits(folder / "edits.jsonl", 4), folder / "run"))
    return load_run(folder / "run")


def make_requests(run: LoadedRun) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    encode = run.base.tokenizer
    return [((a, b), encode(a).input_ids, encode(b).input_ids) for a, b in ASKED]


@torch.no_grad()
def score_naively(run: LoadedRun, question: list[int], answer: list[int], route: Routes) -> float:
    """Log-likelihood of an answer, one row at a time, through a given route."""
    with run.model.base_model.forced_routes(*route):
        logits = run.model(input_ids=torch.tensor([question + answer])).logits[0].log_softmax(-1)
    return float(sum(logits[len(question) + place - 1, token] for place, token in enumerate(answer)))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_are_scored_through_the_routes_of_their_questions(run: LoadedRun, batch_size: int) -> None:
    found = RoutedHFLM(run, batch_size=batch_size)._loglikelihood_tokens(make_requests(run), disable_tqdm=True)
    router = run.model.base_model.router
    routes = [router.locate(torch.tensor([question])) for _, question, _ in make_requests(run)]
    expected = [
        score_naively(run, question, answer, route)
        for (_, question, answer), route in zip(make_requests(run), routes, strict=True)
    ]
    assert [score for score, _ in found] == pytest.approx(expected, rel=1e-4)
    subspaces = [int(route.subspaces) for route in routes]
    assert subspaces[0] == subspaces[2] == -1 < min(subspaces[1], subspaces[3], subspaces[4])
    assert all(int(route.starts) > 0 for route in routes if route.subspaces >= 0)


def test_an_answer_that_spells_an_edited_question_is_told_from_a_question(run: LoadedRun) -> None:
    """The harness's own model takes the answer for part of the question; ours gives the unedited model's score."""
    request = make_requests(run)[2:3]
    stock = HFLM(pretrained=run.model, tokenizer=run.base.tokenizer, batch_size=1)
    with run.model.disable_adapter():
        unedited = stock._loglikelihood_tokens(request, disable_tqdm=True)
    assert RoutedHFLM(run, batch_size=1)._loglikelihood_tokens(request, disable_tqdm=True) == unedited
    assert stock._loglikelihood_tokens(request, disable_tqdm=True) != unedited


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_harness_s_own_model_scores_as_ours_where_answers_name_no_subject(run: LoadedRun, batch_size: int) -> None:
    requests = [request for index, request in enumerate(make_requests(run)) if index != 2]
    stock = HFLM(pretrained=run.model, tokenizer=run.base.tokenizer, batch_size=batch_size)
    ours = RoutedHFLM(run, batch_size=batch_size)
    found, expected = (one._loglikelihood_tokens(requests, disable_tqdm=True) for one in (stock, ours))
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-4)


def test_a_rolling_text_is_routed_by_itself(run: LoadedRun) -> None:
    stock = HFLM(pretrained=run.model, tokenizer=run.base.tokenizer, batch_size=1)
    question = run.base.tokenizer(EDITS[0].prompt).input_ids
    requests = [(None, [1], question)]
    ours = RoutedHFLM(run, batch_size=1)._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours == stock._loglikelihood_tokens(requests, disable_tqdm=True)
    route = run.model.base_model.router.locate(torch.tensor([[1, *question]]))
    assert route.subspaces >= 0
    assert ours[0][0] == pytest.approx(score_naively(run, [1], question, route), rel=1e-4)


def test_the_shipped_tasks_are_scored(run: LoadedRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    tasks = TaskManager(include_path=str(root / "examples" / "lm_eval"), include_defaults=False)
    names = ["edited_choice", "unrelated_choice", "edited_answer"]
    model = RoutedHFLM(run, batch_size=4)
    results = simple_evaluate(model, tasks=names, task_manager=tasks, limit=4, bootstrap_iters=0)["results"]
    assert {0.0, 0.25, 0.5, 0.75, 1.0} >= {results[name]["acc,none"] for name in names[:2]}
    assert results["edited_answer"]["exact_match,strip"] == 0.0  # the tiny model has never heard of these
