"""Fixtures that more than one part of the suite needs."""

import os
from pathlib import Path

import pytest

_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data files; its tests are skipped where there is none."""
    folder = Path(os.environ.get("CASE_LIGHTNING_SHARED_DATA", _BESIDE_THE_CHECKOUT))
    if not folder.is_dir():
        pytest.skip(f"no published data at {folder}; set CASE_LIGHTNING_SHARED_DATA to a folder that holds it")
    return folder
