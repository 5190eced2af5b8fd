"""Where the time of an edit goes, beside what its arithmetic alone would take.

    python examples/profile_edits.py --data.path zsre_mend_edit.json --data.limit 60

Takes the settings of `fit`. The first batches warm up and give the later ones something to rehearse. `bound` is the
floating-point operations of the fit's steps over the rate of a large matrix product in the same dtype on this machine.
"""

import sys
import time
from statistics import median

import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.flop_counter import FlopCounterMode

from case_lightning.base import load_base
from case_lightning.command_line import quiet_libraries, read_settings, run_verb
from case_lightning.editing.batches import StepData
from case_lightning.editing.editor import Editor, put_adapter
from case_lightning.editing.run import build_data
from case_lightning.errors import ConfigError

WARM_UP = 3  # batches
SIZE = 2048  # of the matrices that the machine's rate is measured on


def main(arguments: list[str] | None = None) -> None:
    """Edit with Lightning's profiler on and print a table."""
    settings = read_settings(arguments, __doc__)
    quiet_libraries()
    data = build_data(settings)
    data.setup("fit")
    batches = list(data.batches())
    if len(batches) <= WARM_UP:
        raise ConfigError(f"data.limit: expected more than {WARM_UP} batches, found {len(batches)}; give more edits")
    base = load_base(settings.base.model, settings.base.dtype, settings.base.device)
    editor = Editor(base, put_adapter(base, settings), settings)
    for batch in batches[:WARM_UP]:
        editor.edit(batch)
    editor.trainer.profiler = profiler = SimpleProfiler()
    for batch in batches[WARM_UP:]:
        editor.edit(batch)
    n_edits = sum(len(batch) for batch in batches[WARM_UP:])
    _print_phases({name: sum(times) / n_edits for name, times in profiler.recorded_durations.items()})
    if torch.cuda.is_available():
        sys.stdout.write(f"peak memory of the device: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB\n")
    _print_bound(editor, sum(profiler.recorded_durations["run_training_batch"]) / n_edits, n_edits)


def _print_phases(seconds: dict[str, float]) -> None:
    phases = ("prefix", "gradients", "fit", "commit")
    total = sum(seconds[name] for name in phases)
    sys.stdout.write("| phase | seconds an edit | share |\n|---|---|---|\n")
    inside = [name for name in sorted(seconds, key=lambda name: -seconds[name]) if name not in phases]
    for name in [*phases, *(name for name in inside if seconds[name] > 1e-3)]:
        sys.stdout.write(f"| {name if name in phases else f'… {name}'} | {seconds[name]:.4f} | ")
        sys.stdout.write(f"{seconds[name] / total:.0%} |\n")
    sys.stdout.write(f"| all | {total:.4f} | |\n\n{1 / total:.2f} edits a second\n")


def _print_bound(editor: Editor, measured: float, n_edits: int) -> None:
    module, training = editor.module, editor.settings.training
    steps = StepData(lambda: module.new, editor.past, 1, training.n_rehearsed, seed=0)
    with FlopCounterMode(display=False) as counter:
        module.weighted_loss(next(iter(steps))).backward()
    operations = counter.get_total_flops() * training.steps / len(module.new)
    dtype = module.suffix.dtype
    rate = _measure_rate(dtype, editor.base.model.device)
    bound = operations / rate
    sys.stdout.write(f"\n{n_edits} edits; {operations / 1e9:.0f} GFLOP an edit in {dtype}, {rate / 1e9:.0f} GFLOP/s: ")
    sys.stdout.write(f"bound {bound:.3f} s, steps take {measured:.3f} s, {bound / measured:.0%} of the bound's speed\n")


def _measure_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a matrix product."""
    left, right = (torch.randn(SIZE, SIZE).to(device, dtype) for _ in range(2))
    times = []
    for _ in range(9):
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - started)
    return 2 * SIZE**3 / median(times)


if __name__ == "__main__":
    sys.exit(run_verb(main))
