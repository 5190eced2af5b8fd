"""What a command starts ends with it, however it is ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = "import time; from case_lightning.processes import end_with_parent; end_with_parent(); "
CHILD += "print('ready', flush=True); time.sleep(600)"
ALONE = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {CHILD!r}]); time.sleep(600)"
POOL = "from case_lightning.benchmark import pool; from tests.test_processes import hang; pool.run_cell = hang; "
POOL += "pool.run_cells(pool.BenchSettings(), [None], print)"


def hang(*_: object) -> None:
    print("ready", flush=True)
    time.sleep(600)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone sees to it")
@pytest.mark.parametrize("code", [ALONE, POOL], ids=["editing_process", "cell_of_a_comparison"])
def test_it_ends_with_what_started_it(code: str) -> None:
    words, root = [sys.executable, "-c", code], Path(__file__).parents[1]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=root) as parent:  # noqa: S603
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout.read() == ""  # ends once nobody holds its other side
