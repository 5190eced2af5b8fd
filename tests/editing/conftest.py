"""The tiny checkpoint, written once."""

from pathlib import Path

import pytest

from tests.editing.tiny_run import save_base


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama."""
    return save_base(tmp_path_factory.mktemp("tiny") / "model")
