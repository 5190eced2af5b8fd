"""The cells of a comparison, and where what is known of each is kept."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from operator import attrgetter
from pathlib import Path
from typing import Any

from case_lightning.base.load import choose_device
from case_lightning.benchmark.build import check_method
from case_lightning.benchmark.settings import BenchSettings
from case_lightning.config import RunSettings
from case_lightning.data import Edit
from case_lightning.data.checks import keep_latest
from case_lightning.data.reading import check_count
from case_lightning.editing.checks import AT_MOST, check_settings
from case_lightning.errors import BaseModelError, ConfigError
from case_lightning.writing import write_whole

Row = dict[str, Any]
MAIN_FIGURES = ["reliability", "generalization", "locality"]  # whose mean ranks the methods
NAME = r"[\w-]+"
UNREAD = {  # settings of `fit` that a comparison does not read, and what says it instead
    "base.layer": "the layer is a setting of a method, as methods.case.layer",
    "base.device": "devices says where runs go",
    "evaluation.retention_points": "n_edits says when methods are scored",
}


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: a method edits a stream, and is scored on the way.

    Attributes:
        data: Name of the data set.
        method: Name of the method.
        seed: Of everything random.
        turn: Of a timing, which turn it is; of a scored run, `None`.
    """

    data: str
    method: str
    seed: int
    turn: int | None = None

    def locate(self, run_dir: str | Path, ended: bool = True) -> Path:
        """The file with this cell's rows, or with those so far of one that was not run to its end."""
        kind = "scores" if self.turn is None else "timings"
        name = f"{self.method}-seed{self.seed}" + ("" if self.turn is None else f"-turn{self.turn}")
        return Path(run_dir) / kind / self.data / (f"{name}.json" if ended else f"{name}.begun.json")

    def read(self, run_dir: str | Path, ended: bool = True) -> list[Row] | None:
        """This cell's rows, or `None` if it was not run to its end; or those so far, if it was begun."""
        try:
            rows: list[Row] = json.loads(self.locate(run_dir, ended).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return rows

    def write(self, run_dir: str | Path, rows: Sequence[Row], ended: bool = True) -> None:
        """Keep this cell's rows, in one step."""
        path = self.locate(run_dir, ended)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(rows, indent=1) + "\n")
        if ended:
            self.locate(run_dir, ended=False).unlink(missing_ok=True)


def plan_cells(settings: BenchSettings) -> list[Cell]:
    """All cells, in the order in which they are run: the timings last, their methods in turns."""
    scored = [Cell(*names) for names in product(settings.data, settings.methods, settings.seeds)]
    turns = range(settings.timing.rounds)
    timed = [
        Cell(*names, settings.seeds[0], turn) for turn in turns for names in product(settings.data, settings.methods)
    ]
    return scored + timed


def check_bench(settings: BenchSettings) -> None:
    """Refuse a comparison that cannot be made, before anything is loaded.

    Raises:
        ConfigError: The message names the key, the value and what is accepted.
    """
    for key in ("methods", "data", "n_edits", "seeds", "devices"):
        if not getattr(settings, key):
            raise ConfigError(f"{key}: expected at least one, found none")
    for key in ("methods", "data"):
        for name in getattr(settings, key):
            if not re.fullmatch(NAME, name):
                raise ConfigError(f"{key}: expected a name of letters, digits, - and _, found {name!r}")
    for key, instead in UNREAD.items():
        value = attrgetter(key)(settings)
        if value != attrgetter(key)(BenchSettings()):
            raise ConfigError(f"{key}: expected none, as bench does not read it, found {value}; {instead}")
    _check_numbers(settings)
    for device in settings.devices:
        try:
            choose_device(device)
        except BaseModelError as error:
            raise ConfigError(f"devices: {error}") from None
    for name, found in settings.methods.items():
        check_method(name, found)


def _check_numbers(settings: BenchSettings) -> None:
    """Refuse numbers that cannot work, as `fit` does."""
    check_settings(RunSettings(evaluation=settings.evaluation))
    if min(settings.n_edits) < 1:
        raise ConfigError(f"n_edits: expected numbers above 0, found {min(settings.n_edits)}")
    for key, value in {"max_seconds": settings.max_seconds, "timing.edits": settings.timing.edits}.items():
        if not value > 0:
            raise ConfigError(f"{key}: expected a number above 0, found {value}")
    check_count(settings.timing.rounds, "timing.rounds", least=0)
    for seed in settings.seeds:
        if not 0 <= seed <= AT_MOST["seed"]:
            raise ConfigError(f"seeds: expected 0 to {AT_MOST['seed']}, found {seed}")
    for name, data in settings.data.items():
        check_count(data.batch_size, f"data.{name}.batch_size", least=1)
        check_count(data.offset, f"data.{name}.offset", least=0)
        if data.limit is not None:
            check_count(data.limit, f"data.{name}.limit", least=1)


def split_stream(edits: Sequence[Edit], batch_size: int, stops: Sequence[int]) -> Iterator[tuple[list[Edit], int]]:
    """The batches of a stream, each with how many edits have come by its end; one ends wherever a score is due.

    Args:
        edits: The stream.
        batch_size: Edits that come together.
        stops: After how many edits scores are due.
    """
    ends = {min(stop, len(edits)) for stop in stops} | set(range(0, max(stops), batch_size))
    for start, end in pairwise(sorted(end for end in ends if end <= len(edits))):
        yield keep_latest(edits[start:end]), end
