"""A tiny checkpoint and a comparison on it."""

from pathlib import Path

import pytest

from case_lightning.benchmark import BenchSettings
from case_lightning.benchmark.settings import TimingSettings
from case_lightning.config import BaseSettings, DataSettings, EvaluationSettings
from tests.editing.tiny_run import save_base, write_edits


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def settings(tiny_folder: Path, tmp_path: Path) -> BenchSettings:
    """Two methods on eight edits in batches of four."""
    return BenchSettings(
        run_dir=str(tmp_path / "bench"),
        methods={"ft": {"steps": 3}, "last": {"method": "ft", "objective": "last_token", "steps": 2}},
        data={"capitals": DataSettings(str(write_edits(tmp_path / "edits.jsonl")), batch_size=4)},
        n_edits=[1, 8],
        base=BaseSettings(str(tiny_folder)),
        evaluation=EvaluationSettings(generate=False),
        timing=TimingSettings(rounds=0),
    )
