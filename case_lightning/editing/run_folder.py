"""The files that a run leaves, each written whole or not at all."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from case_lightning.config import RunSettings
from case_lightning.errors import RunError


class RunFolder:
    """One run's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the files."""
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.adapter = self.path / "adapter"
        self.ledger = self.path / "ledger.sqlite"
        self.metrics = self.path / "metrics.json"
        self.examples = self.path / "examples.json"
        self.report = self.path / "report.html"
        self.logs = self.path / "logs"

    @property
    def finished(self) -> bool:
        """Whether a run has ended here."""
        return os.path.isfile(self.metrics)  # False, too, where the path cannot be looked at

    def check_free(self) -> None:
        """Refuse a folder that is in use.

        Raises:
            RunError: It holds something else, or cannot be looked into.
        """
        try:
            held = self._find_held()
        except OSError as error:
            raise self._refuse(error) from error
        if held:
            raise RunError(
                f"run_dir: {self.path} already holds {held}; give another folder with --run_dir, or remove this one"
            )

    def create(self, settings: RunSettings) -> None:
        """Make the folder for a new run.

        Raises:
            RunError: It cannot be written, or holds something else.
        """
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_text(self.config, yaml.safe_dump(asdict(settings), sort_keys=False))
        except OSError as error:
            raise self._refuse(error) from error

    def repeats(self, settings: RunSettings) -> bool:
        """Whether the folder holds the finished run of just these settings."""
        return self.finished and self.config.is_file() and self.read_config() == asdict(settings)

    def read_config(self) -> dict[str, Any]:
        """The settings that the run was made with.

        Raises:
            RunError: The folder holds no run.
        """
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{self.path} holds no readable run: config.yaml is missing or broken ({error})") from error
        if not isinstance(found, dict) or not isinstance(found.get("base"), dict):
            raise RunError(f"{self.path} holds no readable run: config.yaml says nothing of a base model")
        return found

    def read_metrics(self) -> dict[str, Any]:
        """What `metrics.json` says.

        Raises:
            RunError: The run has not ended.
        """
        try:
            found: dict[str, Any] = json.loads(self.metrics.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path} holds no finished run: metrics.json is missing or broken ({error})") from error
        return found

    def write_json(self, path: Path, value: object) -> None:
        """Write JSON that any reader takes: no NaN, no infinity."""
        self.write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write a file so that a reader sees the old one or the new one, never a part."""
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def replace_adapter(self, saved: Path) -> None:
        """Put a freshly saved adapter folder in the old one's place."""
        old = self.path / "adapter.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.adapter.exists():
            self.adapter.rename(old)
        saved.rename(self.adapter)
        shutil.rmtree(old, ignore_errors=True)

    def _refuse(self, error: OSError) -> RunError:
        return RunError(f"run_dir: {self.path} cannot be written ({error.strerror}); give another --run_dir")

    def _find_held(self) -> str | None:
        if self.path.is_file():
            return "a file"
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return None
        if self.finished:
            return "a finished run with other settings"
        return "an unfinished run" if self.config.is_file() else "other files"
