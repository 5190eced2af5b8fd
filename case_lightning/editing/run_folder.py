"""The files that a run leaves, each written whole or not at all."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from case_lightning.command_line import settings_from
from case_lightning.config import RunSettings, TrainerSettings
from case_lightning.errors import CaseError, RunError
from case_lightning.writing import write_whole

LOCK = ".lock"
MEASURED_ONCE = ("peak_rss_bytes", "peak_device_bytes", "generate_overhead")
BEFORE_CONFIG = {LOCK, "snapshots", "config.yaml.part"}  # what a run makes first
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# from one stream of a run to the next; of the trainer all but its precision
CHANGEABLE = ("run_dir", "data", "trainer", "evaluation", "on_contradiction")


class RunFolder:
    """One run's folder.

    Args:
        path: The folder.

    Raises:
        RunError: No folder can have such a path.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the files."""
        if "\0" in str(path):
            raise RunError(f"run_dir: a path has no NUL character, found {str(path)!r}; give another folder")
        self.path = Path(os.path.expanduser(path))
        self.config = self.path / "config.yaml"
        self.adapter = self.path / "adapter"
        self.ledger = self.path / "ledger.sqlite"
        self.metrics = self.path / "metrics.json"
        self.examples = self.path / "examples.json"
        self.report = self.path / "report.html"
        self.snapshots = self.path / "snapshots"
        self.logs = self.path / "logs"

    @property
    def finished(self) -> bool:
        """Whether a run has ended here."""
        return os.path.isfile(self.metrics)  # False, too, where the path cannot be looked at

    @property
    def started(self) -> bool:
        """Whether a run has begun here; an empty ledger is one that could not be written."""
        return os.path.isfile(self.ledger) and self.ledger.stat().st_size > 0

    def check_usable(self, settings: RunSettings) -> None:
        """Refuse a folder that holds something other than the beginning of just this run.

        Raises:
            RunError: It does, or cannot be looked into; or it holds a run that was made in another way.
        """
        try:
            held = self._find_foreign()
        except OSError as error:
            raise self.refuse(error) from error
        if held:
            raise RunError(
                f"run_dir: {self.path} already holds {held}; give another folder with --run_dir, or remove this one"
            )
        if self.started:
            self._check_method(settings)

    def create(self, settings: RunSettings) -> None:
        """Make the folder for a run, or take its settings over into the one there is.

        Raises:
            RunError: It cannot be written, or holds something else.
        """
        self.check_usable(settings)
        try:
            if self.config.is_file() and _fill_in(self.read_config())["evaluation"] != asdict(settings.evaluation):
                self.retract_figures()  # they were scored in another way
            self.snapshots.mkdir(parents=True, exist_ok=True)
            self.write_text(self.config, yaml.safe_dump(asdict(settings), sort_keys=False))
        except OSError as error:
            raise self.refuse(error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock goes with the process, however that ends.

        Raises:
            RunError: Another process has it, or the folder cannot be written.
        """
        lock, was_there = FileLock(self.path / LOCK), os.path.lexists(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunError(
                f"run_dir: {self.path} is being written by another process; wait for it to end or stop it"
            ) from error
        except OSError as error:
            raise self.refuse(error) from error
        try:
            yield
        finally:
            with suppress(OSError):
                if [path.name for path in self.path.iterdir()] == [LOCK]:  # nothing came of it
                    (self.path / LOCK).unlink()
                    if not was_there:
                        self.path.rmdir()
            lock.release()

    def repeats(self, settings: RunSettings) -> bool:
        """Whether the folder holds the finished run of just these settings."""
        return self.finished and self.config.is_file() and _fill_in(self.read_config()) == asdict(settings)

    def read_config(self) -> dict[str, Any]:
        """The settings that the run was made with.

        Raises:
            RunError: The folder holds no run.
        """
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(
                f"{self.path} holds no readable run: config.yaml is missing or broken ({error}); give the folder that "
                f"'fit' has left, or restore the file from a copy"
            ) from error
        if not isinstance(found, dict) or not isinstance(found.get("base"), dict):
            raise RunError(
                f"{self.path} holds no readable run: config.yaml says nothing of a base model; restore it from a copy"
            )
        return found

    def read_settings(self) -> RunSettings:
        """The same as settings; those that there were not when the run was made have their defaults.

        Of the trainer's only precision and logger are taken over: what reads them is one process, wherever it runs.

        Raises:
            RunError: The folder holds no run, or one with settings that are not known here.
        """
        found, known = self.read_config(), asdict(RunSettings())
        for name, value in found.items():
            inside = known.get(name)
            strange = value.keys() - inside.keys() if isinstance(inside, dict) and isinstance(value, dict) else set()
            if name not in known or strange or isinstance(inside, dict) != isinstance(value, dict):
                key = f"{name}.{min(strange)}" if strange else name
                raise RunError(
                    f"{self.config}: {key} is no setting of this version of case_lightning; use the version that wrote "
                    f"it, or restore the file"
                )
        settings = settings_from(_fill_in(found))
        settings.trainer = TrainerSettings(precision=settings.trainer.precision, logger=settings.trainer.logger)
        return settings

    def read_metrics(self) -> dict[str, Any]:
        """What `metrics.json` says.

        Raises:
            RunError: The run has not ended.
        """
        try:
            found: dict[str, Any] = json.loads(self.metrics.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path} holds no finished run: metrics.json is missing or broken ({error}); finish it with "
                f"'fit', or score it with 'evaluate'"
            ) from error
        return found

    def read_peaks(self) -> dict[str, Any]:
        """Those of the costs in `metrics.json` that only the process that made the edits could measure."""
        try:
            cost = self.read_metrics()["cost"]
        except RunError:  # none yet, or they are about to be written anew
            return {}
        return {name: cost[name] for name in MEASURED_ONCE if name in cost}

    def write_json(self, path: Path, value: object) -> None:
        """Write JSON that any reader takes: no NaN, no infinity."""
        self.write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write a file so that a reader sees the old one or the new one, never a part."""
        write_whole(path, text)

    def retract_figures(self) -> None:
        """Take away what was scored before the edits changed."""
        for path in (self.metrics, self.examples, self.report):
            path.unlink(missing_ok=True)

    def replace_adapter(self, part: Path) -> None:
        """Put a fresh adapter folder in the old one's place."""
        self.retract_adapter()
        part.rename(self.adapter)

    def retract_adapter(self) -> None:
        """Take the adapter folder away; readers take the snapshot that it is a copy of, whichever that is by then."""
        old = self.path / "adapter.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.adapter.exists():
            self.adapter.rename(old)
        shutil.rmtree(old, ignore_errors=True)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Say of a folder that cannot be written that it is so.

        Raises:
            RunError: Something was to be written inside, and could not.
        """
        try:
            yield
        except CaseError:
            raise
        except (OSError, SafetensorError, sqlite3.OperationalError) as error:
            raise self.refuse(error) from error

    def refuse(self, error: Exception) -> RunError:
        """The error for a folder that cannot be written; what was made before is safe."""
        reason = getattr(error, "strerror", None) or error
        return RunError(f"run_dir: {self.path} cannot be written ({reason}); make room there or give another --run_dir")

    def _check_method(self, settings: RunSettings) -> None:
        """Refuse to go on with a run in another way than it was begun."""
        before, now = _take_fixed(_fill_in(self.read_config())), _take_fixed(asdict(settings))
        for section in before.keys() | now.keys():
            if before.get(section) != now.get(section):
                raise RunError(
                    f"run_dir: {self.path} holds a run with other settings: {_describe_change(before, now, section)}; "
                    f"go on with those of its config.yaml, or give another folder with --run_dir"
                )

    def _find_foreign(self) -> str | None:
        if self.path.is_file():
            return "a file"
        if not self.path.is_dir() or self.config.is_file():
            return None
        return "other files" if {path.name for path in self.path.iterdir()} - BEFORE_CONFIG else None


def _fill_in(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run with the defaults of those that were not there yet when it was made."""
    filled: dict[str, Any] = asdict(RunSettings())
    for name, value in config.items():
        filled[name] = filled[name] | value if isinstance(filled.get(name), dict) else value
    return filled


def _take_fixed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that every stream of a run shares: not on what device, but at what precision, for one."""
    fixed = {name: value for name, value in config.items() if name not in CHANGEABLE}
    fixed["base"] = {name: value for name, value in fixed["base"].items() if name != "device"}
    fixed["trainer"] = {"precision": config["trainer"]["precision"]}
    return fixed


def _describe_change(before: dict[str, Any], now: dict[str, Any], section: str) -> str:
    old, new = before.get(section), now.get(section)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return f"{section} was {old}, is {new}"
    key = next(key for key in new | old if old.get(key) != new.get(key))
    return f"{section}.{key} was {old.get(key)}, is {new.get(key)}"
