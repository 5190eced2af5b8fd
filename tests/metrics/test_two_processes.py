"""Two gloo processes, each with half of the batches, compute what one process computes."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from case_lightning.metrics import Reliability, Retention
from tests.metrics.cases import CASES, Case

PROCESSES = 2
Values = dict[str, torch.Tensor]


def score_in_process(rank: int, folder: Path) -> None:
    """Every case on this process's share of the batches; where there is but one, the other process has none."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    torch.set_default_dtype(torch.float64)  # must not leak into what a process without data contributes
    values = {case.name: score(case, rank) for case in CASES}
    values["followed"] = follow(CASES[0], rank)
    torch.save(values, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def score(case: Case, rank: int) -> torch.Tensor:
    metric = case.build()
    for batch in case.batches[rank::PROCESSES]:
        metric.update(**batch)
    return metric.compute()


def follow(case: Case, rank: int) -> torch.Tensor:
    """A retention curve of finished scores, added by every process alike."""
    reliability, retention = Reliability(), Retention()
    for step in range(0, len(case.batches) - 1, PROCESSES):
        reliability.update(**case.batches[step + rank])
        retention.update(step + PROCESSES, reliability.compute())
    return retention.compute()


@pytest.fixture(scope="module")
def per_process(tmp_path_factory: pytest.TempPathFactory) -> list[Values]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(score_in_process, args=(folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_process_has_the_value_of_one(case: Case, per_process: list[Values]) -> None:
    metric = case.build()
    for batch in case.batches:
        metric.update(**batch)
    for values in per_process:
        torch.testing.assert_close(values[case.name], metric.compute(), equal_nan=True)


def test_a_curve_every_process_adds_to_has_each_point_once(per_process: list[Values]) -> None:
    reliability, retention = Reliability(), Retention()
    for step, batch in enumerate(CASES[0].batches[:4], start=1):
        reliability.update(**batch)
        if step % PROCESSES == 0:
            retention.update(step, reliability.compute())
    assert retention.compute().shape == (2, 2)
    for values in per_process:
        torch.testing.assert_close(values["followed"], retention.compute())
