"""A real run of two CPU processes makes the same edits as one process, and only its first process writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from case_lightning.editing.ledger import Ledger
from case_lightning.fit import main
from tests.editing.tiny_run import command, read_json, read_ledger, write_edits

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).resolve().parents[2]
TWO = ("--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.devices", "2")
EXACT = ("id", "position", "batch", "prompt", "target", "subspace", "decision")


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three batches of four edits each, by one process and by two."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_edits(folder / "edits.jsonl", 12)
    exact = ("--subspace.storage_dtype", "float32")
    main(command(tiny_model, data, folder / "one", *exact))
    words = command(tiny_model, data, folder / "two", *exact, *TWO)
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "case_lightning.fit", *words],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout.count("12 edits in") == 1  # the second process shows nothing
    return folder / "one", folder / "two"


def test_the_same_allocation(runs: tuple[Path, Path]) -> None:
    one, two = map(read_ledger, runs)
    assert len(one) == len(two) == 12
    assert [[row[name] for name in EXACT] for row in one] == [[row[name] for name in EXACT] for row in two]
    assert len({row["subspace"] for row in one}) > 1
    for row, other in zip(one, two, strict=True):
        assert other["conflict_score"] == pytest.approx(row["conflict_score"], abs=1e-3)
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-2)


def test_the_same_masks_and_weights(runs: tuple[Path, Path]) -> None:
    one, two = (load_file(run / "adapter" / "adapter_model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if ".subspaces." not in name or not value.is_floating_point():
            continue
        torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-3)
    masks = [Ledger(run / "ledger.sqlite").mask_rows() for run in runs]
    assert [one["kept"] for one in masks[0]] == [one["kept"] for one in masks[1]]
    assert {one["batch"] for one in masks[0]} == {0, 1, 2}
    assert any(sum(json.loads(one["kept"])) < sum(json.loads(one["neurons"])) for one in masks[0])


def test_the_same_figures_and_files(runs: tuple[Path, Path]) -> None:
    one, two = (read_json(run / "metrics.json") for run in runs)
    assert two["final"]["reliability"] == pytest.approx(one["final"]["reliability"], abs=0.05)
    assert two["cost"]["optimizer_steps"] == one["cost"]["optimizer_steps"] == 15 + 3 + 4
    assert two["final"]["locality_bit_identical"] == 1.0
    # the names of snapshots tell their contents
    files = [sorted(str(path.relative_to(run))[:16] for path in run.rglob("*")) for run in runs]
    assert files[0] == files[1]
