"""What a comparison compares."""

from dataclasses import dataclass, field
from typing import Any

from case_lightning.config import BaseSettings, DataSettings, EvaluationSettings


@dataclass
class TimingSettings:
    """Timings side by side: every method edits the same few batches, in turns, each time in a process of its own.

    Args:
        rounds: Turns of every method; 0 leaves the timings out.
        edits: Edits that are timed in a turn, after one batch that is not.
    """

    rounds: int = 3
    edits: int = 20


@dataclass
class BenchSettings:
    """A comparison: every method on every data set with every seed.

    Args:
        run_dir: Folder that it leaves; what is done already is not done again.
        methods: A name for each method and its settings; `method` among them says which it is where the name does not.
        data: A name for each data set, and which edits it has.
        n_edits: After how many edits a method is scored, on all of them.
        seeds: Of everything random.
        max_seconds: Editing and scoring of a run that takes longer is ended at the largest number of edits that fits.
        devices: Where runs go, one at a time on each; `cpu`, `cuda:0` …
        base: The model that is edited; `devices` say where, and each method has its own `layer`.
        evaluation: How it is scored; `n_edits` says when.
        timing: How edits are timed side by side.
    """

    run_dir: str = "runs/bench"
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, DataSettings] = field(default_factory=dict)
    n_edits: list[int] = field(default_factory=lambda: [1, 10, 100])
    seeds: list[int] = field(default_factory=lambda: [0])
    max_seconds: float = 7200.0
    devices: list[str] = field(default_factory=lambda: ["cpu"])
    base: BaseSettings = field(default_factory=BaseSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
