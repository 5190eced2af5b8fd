"""The size of an adapter on disk, counted on the meta device for the large models that the configurations name."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, PreTrainedModel

from case_lightning.base import Base, find_architecture
from case_lightning.command_line import read_settings
from case_lightning.config import RunSettings
from case_lightning.editing.editor import make_config
from tests.count_bytes import count_bytes
from tests.subspace.tiny_adapters import build_adapter, build_base
from tests.test_configs import LARGE, RUNS, name_config

MEBIBYTE = 1 << 20
THOUSAND_EDITS = {"n_keys": 4000, "n_key_tokens": 50_000, "n_calibration": 4096}  # ZsRE's, rounded up
ON_LARGE = [path for path in RUNS if read_settings(["--config", str(path)], "").base.model in LARGE]


def count_adapter(model: PreTrainedModel, settings: RunSettings) -> int:
    """Bytes of the adapter of a thousand edits on a model without values."""
    base = Base(model, None, settings.base.model, find_architecture(model), None)  # type: ignore[arg-type]
    sizes = {"n_subspaces": settings.conflict.max_subspaces, "n_memories": settings.memory.size} | THOUSAND_EDITS
    config = make_config(base, settings)
    for name, size in sizes.items():
        setattr(config, name, size)
    return count_bytes(get_peft_model_state_dict(get_peft_model(model, config)))


@pytest.mark.parametrize("path", ON_LARGE, ids=name_config)
def test_a_thousand_edits_of_a_large_model_are_a_mebibyte(path: Path) -> None:
    settings = read_settings(["--config", str(path)], "")
    settings.subspace.relation = "words"  # states want a tokenizer; what is stored is the same
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LARGE[settings.base.model][0])
    assert MEBIBYTE // 2 < count_adapter(model, settings) <= MEBIBYTE


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("tune_input", [True, False])
def test_the_count_is_that_of_a_saved_file(dtype: str, tune_input: bool, tmp_path: Path) -> None:
    model = build_adapter(build_base(), storage_dtype=dtype, tune_input=tune_input, n_directions=3)
    model.save_pretrained(str(tmp_path))
    counted = count_bytes(get_peft_model_state_dict(model))
    assert counted == (tmp_path / "adapter_model.safetensors").stat().st_size
