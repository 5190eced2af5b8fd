"""Every configuration that the project carries can be read, and edits a layer that its base model has."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedConfig

from case_lightning.base import DEFAULT_MODEL, find_architecture
from case_lightning.bench import read_bench
from case_lightning.benchmark.plan import check_bench
from case_lightning.command_line import read_settings
from case_lightning.config import RunSettings, TrainingSettings
from case_lightning.editing.checks import check_settings
from case_lightning.subspace import CaseConfig, CaseLayer
from tests.base.large_models import LLAMA_2_7B, LLAMA_3_8B, QWEN_2_5_7B

_ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((_ROOT / "configs").rglob("*.yaml"))
LARGE: dict[str, tuple[PreTrainedConfig, int, int]] = {  # base.model to its config, d_in, d_out
    "meta-llama/Llama-2-7b-hf": (LLAMA_2_7B, 11008, 4096),
    "meta-llama/Llama-2-7b-chat-hf": (LLAMA_2_7B, 11008, 4096),
    "meta-llama/Meta-Llama-3-8B": (LLAMA_3_8B, 14336, 4096),
    "meta-llama/Meta-Llama-3-8B-Instruct": (LLAMA_3_8B, 14336, 4096),
    "Qwen/Qwen2.5-7B": (QWEN_2_5_7B, 18944, 3584),
    "Qwen/Qwen2.5-7B-Instruct": (QWEN_2_5_7B, 18944, 3584),
}


def name_config(path: Path) -> str:
    return str(path.relative_to(_ROOT / "configs"))


def is_run(path: Path) -> bool:
    """Whether a file holds settings of a run, rather than of a comparison or of LightningCLI."""
    return path not in COMPARISONS and "class_path" not in path.read_text(encoding="utf-8")


COMPARISONS = [path for path in CONFIGS if path.parent.name == "bench"]
RUNS = [path for path in CONFIGS if is_run(path)]


def test_there_are_configurations() -> None:
    assert "quickstart.yaml" in map(name_config, RUNS)


@pytest.mark.parametrize("path", RUNS, ids=name_config)
def test_a_configuration_can_be_read(path: Path, tmp_path: Path) -> None:
    settings = read_settings(["--config", str(path), "--run_dir", str(tmp_path)], "")
    check_settings(settings)
    assert settings.run_dir == str(tmp_path)
    assert settings.base.model == DEFAULT_MODEL or settings.base.model in LARGE
    assert settings.base.dtype in ("auto", "float32", "bfloat16", "float16")
    if settings.base.model == DEFAULT_MODEL:
        assert settings.base.layer is None or 0 <= settings.base.layer < 30


@pytest.mark.parametrize("path", COMPARISONS, ids=name_config)
def test_a_comparison_can_be_read(path: Path) -> None:
    settings = read_bench(["--config", str(path)])
    check_bench(settings)
    assert settings.base.model == DEFAULT_MODEL
    assert set(settings.methods) & {"case", "default"}


def test_a_row_of_the_ablation_by_hand_edits_as_the_row_does() -> None:
    path = _ROOT / "configs" / "bench" / "ablation_smollm2.yaml"
    command = re.search(r"python -m case_lightning\.fit (.*)", path.read_text(encoding="utf-8"))
    assert command
    words = shlex.split(command[1])
    by_hand, row = read_settings(words, ""), read_bench(["--config", str(path)])
    expected = RunSettings(training=TrainingSettings(**row.methods["no_mask"]["training"]))
    for section in ("base", "subspace", "conflict", "memory", "training", "consolidation"):
        assert getattr(by_hand, section) == getattr(expected, section), section
    assert (by_hand.evaluation, by_hand.data.batch_size) == (row.evaluation, row.data["zsre"].batch_size)
    assert [by_hand.data.limit] == row.n_edits


@pytest.mark.parametrize("path", CONFIGS, ids=name_config)
def test_a_configuration_opens_with_the_command_that_runs_it(path: Path) -> None:
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any("python -m" in line and name_config(path) in line for line in head)
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("path", RUNS, ids=name_config)
def test_the_configured_layer_exists(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models are built without weights, on the meta device."""
    settings = read_settings(["--config", str(path)], "")
    if settings.base.model not in LARGE:
        pytest.skip(f"{settings.base.model} is not among the large models")
    config, d_in, d_out = LARGE[settings.base.model]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    architecture = find_architecture(model)
    layer = architecture.check_layer(architecture.default_layer if settings.base.layer is None else settings.base.layer)
    target = model.get_submodule(architecture.down_projections[layer])
    with torch.device("meta"):
        edited = CaseLayer(target, "default", CaseConfig(rank=settings.subspace.rank, base_fingerprint="0"))
        edited.adapter.subspaces.up.append(torch.nn.Parameter(torch.zeros(edited.out_features, settings.subspace.rank)))
    assert (edited.in_features, edited.out_features) == (d_in, d_out)
    assert (architecture.d_in, architecture.d_out) == (d_in, d_out)


def test_an_installed_package_has_every_file_that_it_reads() -> None:
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["case_lightning"].split()
    package = _ROOT / "case_lightning"
    carried = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files == carried
