"""What is noted beside the scores: the parts of the adapter file, the examples, the environment."""

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file

from case_lightning.editing.environment import describe_environment
from case_lightning.editing.figures import N_EXAMPLES, N_SHOWN, make_examples, measure_overhead, measure_parts
from case_lightning.editing.scoring import Scorer
from tests.editing.tiny_run import load_tiny, make_edits, make_settings


class Echo:
    """Answers with the prompt, after the name of the model."""

    def generate(self, prompts: list[str], tokens: int, edited: bool) -> list[str]:
        return [f"{'edited' if edited else 'unedited'} {prompt}" for prompt in prompts]


def test_parts_of_an_adapter_file_add_up_to_it(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    tensors = {
        "model.subspaces.0.up": torch.zeros(3, 4, dtype=torch.int8),
        "model.subspaces.0.scale": torch.zeros(4),
        "model.keys.tokens": torch.zeros(5, dtype=torch.int32),
        "model.keys.subspaces": torch.zeros(3, dtype=torch.int16),
        "model.memory.inputs": torch.zeros(2, 2, dtype=torch.float16),
        "model.monkeys": torch.zeros(1),
    }
    save_file(tensors, path)
    parts = measure_parts(path)
    assert sum(parts.values()) == path.stat().st_size
    assert {name: parts[name] for name in parts if name != "header"} == {
        "subspaces": 28,
        "keys": 26,
        "memory": 8,
        "other": 4,
    }


def test_examples_are_the_first_the_best_and_the_worst() -> None:
    n_edits = 12
    edits = make_edits(n_edits) * 2
    details = [
        {"reliability": 0.5 + 0.01 * ((7 * index) % 24), "generalization": None, "loss": 1.0} for index in range(24)
    ]
    order = sorted(range(24), key=lambda index: details[index]["reliability"])
    expected = sorted({*range(N_EXAMPLES), *order[:N_SHOWN], *order[-N_SHOWN:]})
    shown = make_examples(Echo(), edits, details)  # type: ignore[arg-type]
    assert [one["reliability"] for one in shown] == [details[index]["reliability"] for index in expected]
    assert [one["edited"] for one in shown] == [f"edited {edits[index].prompt}" for index in expected]
    assert [one["id"] for one in shown[:N_EXAMPLES]] == [edit.id for edit in edits[:N_EXAMPLES]]
    newest = make_examples(Echo(), edits, details, first=22)  # type: ignore[arg-type]
    assert [one["prompt"] for one in newest[:2]] == [edit.prompt for edit in edits[22:]]
    assert len(newest) == len({22, 23, *order[:N_SHOWN], *order[-N_SHOWN:]})


def test_what_edits_cost_in_generation_is_not_known_without_an_edit() -> None:
    assert measure_overhead(cast(Scorer, None), []) is None


def test_the_environment_names_versions_machine_threads_and_precision(tiny_model: Path) -> None:
    found = describe_environment(make_settings(tiny_model), load_tiny(tiny_model))
    assert found["torch"] == torch.__version__
    assert (found["threads"], found["device"], found["accelerator"]) == (torch.get_num_threads(), "cpu", None)
    assert (found["base_dtype"], found["precision"]) == ("float32", "32-true")
    assert all(found[name] for name in ("case_lightning", "python", "lightning", "peft", "system", "machine", "cores"))
