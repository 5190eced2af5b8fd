"""The embedded model from end to end: edited, saved, loaded as any PEFT adapter, and asked."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from case_lightning import fit
from case_lightning.base import DEFAULT_MODEL, load_base
from case_lightning.data import read_edits
from case_lightning.data.files import locate_data
from tests.editing.tiny_run import read_json

pytestmark = [pytest.mark.real_model, pytest.mark.slow]
N_EDITS = 10
UNRELATED = ["The chemical symbol for gold is", "My cat likes to sleep on", "def add(a, b):\n    return"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    words = ["--run_dir", str(folder), "--data.limit", str(N_EDITS), "--training.steps", "40", "--base.device", "cpu"]
    fit.main([*words, "--training.n_variants", "1", "--evaluation.generate", "false"])
    return folder


def test_edits_are_learned_and_nothing_else_changes(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert metrics["n_edits"] == N_EDITS
    assert metrics["final"]["reliability"] > 0.8 > 0.5 > metrics["pre"]["reliability"]
    assert metrics["final"]["locality_bit_identical"] == 1.0
    assert metrics["cost"]["adapter_bytes"] < 2**20


def test_the_adapter_is_peft_s_own(run: Path) -> None:
    """Nothing of the run is needed but the adapter folder and the base model."""
    base = load_base(DEFAULT_MODEL, device="cpu")
    edit = read_edits(locate_data("sample"), limit=N_EDITS)[0]
    asked = [edit.prompt, *UNRELATED]
    tokens = base.tokenizer(asked, return_tensors="pt", padding=True)
    with torch.no_grad():
        before = base.model(**tokens).logits
        model = PeftModel.from_pretrained(base.model, str(run / "adapter")).eval()
        after = model(**tokens).logits
    assert torch.equal(after[1:].view(torch.int32), before[1:].view(torch.int32))
    assert not torch.equal(after[0], before[0])
    prompt = base.tokenizer(edit.prompt, return_tensors="pt")
    found = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert base.tokenizer.decode(found, skip_special_tokens=True).strip().startswith(edit.target)
