"""Runs the cells that are missing, each in a process of its own, one at a time on each device.

One that is killed, as for want of memory, takes no other with it. Each ends with the command, however that is ended
(where the system cannot see to that, once its cell is done).
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack

from case_lightning.benchmark.cell import run_cell
from case_lightning.benchmark.plan import Cell
from case_lightning.benchmark.settings import BenchSettings
from case_lightning.errors import RunError
from case_lightning.processes import end_with_parent


def run_cells(
    settings: BenchSettings, cells: Sequence[Cell], note: Callable[[Cell, BaseException | None], None]
) -> None:
    """Run cells; what peaks in memory, or overwrites a model, ends with its process.

    Args:
        settings: The comparison.
        cells: Those to run, in order.
        note: Told of each that is done, and why where it cannot be run; the others are.
    """
    free, waiting = list(settings.devices), list(cells)
    running: dict[Future[None], tuple[Cell, str, ProcessPoolExecutor]] = {}
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        while waiting or running:
            while waiting and free:
                cell, device = waiting.pop(0), free.pop(0)
                pool = stack.enter_context(ProcessPoolExecutor(1, context, end_with_parent))
                running[pool.submit(run_cell, settings, cell, device)] = cell, device, pool
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                cell, device, pool = running.pop(future)
                pool.shutdown()
                free.append(device)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    error = RunError("its process was killed, as for want of memory")
                if not isinstance(error, Exception | None):
                    raise error
                note(cell, error)
