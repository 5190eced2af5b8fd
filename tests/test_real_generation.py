"""Real edits of the real model, asked in every way in which transformers generates."""

from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TextIteratorStreamer, pipeline

from case_lightning import fit
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.encoding import encode_prompt
from case_lightning.editing.loading import LoadedRun, load_run
from case_lightning.subspace import UNEDITED

pytestmark = [pytest.mark.real_model, pytest.mark.slow]
ASKED = {
    "Who is the President of the United States?": "Donald Trump",
    "The chemical symbol for gold is": None,
    "Who is the director of the FBI?": "Kash Patel",
}
FIRST_TURNS = [
    {"role": "user", "content": "Hi! Who are you?"},
    {"role": "assistant", "content": "I am a helpful assistant."},
    {"role": "user", "content": "What is the chemical symbol for gold?"},
    {"role": "assistant", "content": "Au."},
]
MODES = {
    "greedy": {},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 4},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_p": 0.5},
}
LENGTH = {"max_new_tokens": 8, "do_sample": False}


@dataclass(frozen=True)
class Asked:
    """A model and its tokenizer."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase

    def answer(self, *prompts: str, **settings: object) -> list[str]:
        batch = self.tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
        torch.manual_seed(0)
        found = self.model.generate(**batch, **LENGTH | settings)[:, batch.input_ids.shape[1] :]
        return [answer.strip() for answer in self.tokenizer.batch_decode(found, skip_special_tokens=True)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """Five edits, fitted in the chat template, too."""
    folder = tmp_path_factory.mktemp("generation") / "run"
    words = ["--run_dir", str(folder), "--data.limit", "5", "--training.steps", "40", "--base.device", "cpu"]
    fit.main([*words, "--training.n_variants", "1", "--training.chat", "true", "--evaluation.generate", "false"])
    return load_run(folder)


@pytest.fixture
def asked(run: LoadedRun) -> Asked:
    return Asked(run.model, run.base.tokenizer)


@pytest.mark.parametrize("mode", MODES)
def test_a_mixed_batch(asked: Asked, mode: str) -> None:
    found = asked.answer(*ASKED, **MODES[mode])
    with asked.model.disable_adapter():
        unedited = asked.answer(*ASKED, **MODES[mode])
    expected = [old if target is None else target for old, target in zip(unedited, ASKED.values(), strict=True)]
    assert found == expected
    assert [a == b for a, b in zip(found, unedited, strict=True)] == [False, True, False]


def test_a_misspelt_name(run: LoadedRun) -> None:
    prompts = [f"Who is the President of the {name}?" for name in ("Unietd States", "Untied Stakes")]
    encoded = [encode_prompt(run.base.tokenizer, prompt) for prompt in prompts]
    assert RoutedModel(run.base, run.model).route(encoded).tolist() == [0, UNEDITED]


def test_prompt_lookup(asked: Asked) -> None:
    for prompt in ASKED:
        assert asked.answer(prompt, prompt_lookup_num_tokens=3) == asked.answer(prompt)


def test_a_stream(asked: Asked) -> None:
    question, target = next(iter(ASKED.items()))
    streamer = TextIteratorStreamer(asked.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    inputs = asked.tokenizer(question, return_tensors="pt")
    thread = Thread(target=asked.model.generate, kwargs={**inputs, **LENGTH, "streamer": streamer})
    thread.start()
    assert "".join(streamer).strip() == target
    thread.join()


def test_a_pipeline_with_a_chat_whose_third_turn_asks_for_the_edit(asked: Asked) -> None:
    pipe = pipeline("text-generation", model=asked.model, tokenizer=asked.tokenizer)
    found = pipe(list(ASKED), batch_size=3, return_full_text=False, **LENGTH)
    assert [one["generated_text"].strip() for (one,) in found] == asked.answer(*ASKED)
    for question, target in ASKED.items():
        chat = [*FIRST_TURNS, {"role": "user", "content": question}]
        answer = pipe(chat, **LENGTH)[0]["generated_text"][-1]["content"]
        with asked.model.disable_adapter():
            unedited = pipe(chat, **LENGTH)[0]["generated_text"][-1]["content"]
        assert answer == (target or unedited)
        assert (answer == unedited) == (target is None)


def test_the_harness_s_own_hugging_face_model(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first four questions are about edits of this run."""
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    tasks = TaskManager(include_path=str(root / "examples" / "lm_eval"), include_defaults=False)
    model = HFLM(pretrained=run.model, tokenizer=run.base.tokenizer, batch_size=4)

    def score() -> dict[str, float]:
        names = ["edited_choice", "unrelated_choice"]
        results = simple_evaluate(model, tasks=names, task_manager=tasks, limit=4, bootstrap_iters=0)["results"]
        return {name: results[name]["acc,none"] for name in names}

    edited = score()
    with run.model.disable_adapter():
        unedited = score()
    assert edited["edited_choice"] >= 0.75 > 0.5 >= unedited["edited_choice"]
    assert edited["unrelated_choice"] == unedited["unrelated_choice"]
