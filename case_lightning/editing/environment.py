"""Where a run was made: versions, machine, threads and precision, for its `metrics.json`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import case_lightning
from case_lightning.base import Base
from case_lightning.config import RunSettings

PACKAGES = ("torch", "lightning", "transformers", "peft", "tokenizers")


def describe_environment(settings: RunSettings, base: Base) -> dict[str, str | int | None]:
    """The environment of this process, by name.

    Args:
        settings: Settings of the run.
        base: Its base model, as it was loaded.
    """
    return {
        "case_lightning": case_lightning.__version__,
        "python": platform.python_version(),
        **{name: _find_version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _name_processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(base.model.device),
        "accelerator": torch.cuda.get_device_name(base.model.device) if base.model.device.type == "cuda" else None,
        "base_dtype": str(base.model.dtype).removeprefix("torch."),
        "precision": settings.trainer.precision,
    }


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name_processor() -> str | None:
    """The processor's own name, where Linux tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        return None
    return names[0] if names else None
