"""Where Lightning's figures of a run go while it is made: a CSV file, or TensorBoard."""

from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from typing_extensions import override

from case_lightning.editing.batch_log import BatchLogger
from case_lightning.errors import ConfigError


class StreamLogger(TensorBoardLogger):
    """TensorBoard over many fits: stock Lightning would begin a new file with each."""

    @override
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self._experiment.flush()


def build_logger(kind: str, folder: Path) -> Logger:
    """A logger that writes into a folder.

    Args:
        kind: `csv` or `tensorboard`.
        folder: The folder.

    Raises:
        ConfigError: A package that it needs is missing.
    """
    if kind == "csv":
        return BatchLogger(folder)
    for package in ("tensorboard", "matplotlib"):
        if find_spec(package) is None:
            raise ConfigError(
                f"trainer.logger: {kind} needs {package}, which is not installed; pip install "
                f"'case_lightning[tensorboard]'"
            )
    return StreamLogger(folder.parent, name=folder.name, version="")
