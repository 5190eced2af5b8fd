"""From a run folder back to a model that answers."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from case_lightning.base import Base, load_base
from case_lightning.data import Edit
from case_lightning.editing.ledger import Ledger
from case_lightning.editing.run_folder import RunFolder
from case_lightning.errors import CaseError, RunError


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    Attributes:
        folder: Its folder.
        base: The base model, loaded as it was edited.
        model: The same with the run's adapter.
        edits: The edits, in order.
    """

    folder: RunFolder
    base: Base
    model: PeftModel
    edits: list[Edit]


def load_run(path: str | Path, device: str | None = None) -> LoadedRun:
    """Load a finished run.

    Args:
        path: Its folder.
        device: Where to; by default where the run's settings say.

    Raises:
        RunError: There is no finished run, or its adapter cannot be read.
        BaseModelError: The base model is not the one that was edited.
    """
    folder = RunFolder(path)
    settings = folder.read_config()["base"]
    edits = Ledger(folder.ledger).edits()
    if not (folder.adapter / "adapter_model.safetensors").is_file():
        raise RunError(f"{folder.adapter} holds no adapter_model.safetensors; the run has not ended")
    base = load_base(settings["model"], settings["dtype"], device or settings["device"], settings["trust_remote_code"])
    try:
        model = PeftModel.from_pretrained(base.model, str(folder.adapter)).eval()
    except CaseError:
        raise
    except Exception as error:  # a broken file: PEFT and safetensors raise almost any type for one
        raise RunError(f"{folder.adapter} cannot be read ({error}); restore it from a copy") from error
    return LoadedRun(folder, base, model, edits)
