"""From a run folder back to a model that answers."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from case_lightning.base import Base, load_base
from case_lightning.config import BaseSettings
from case_lightning.data import Edit
from case_lightning.editing.ledger import Ledger, holds
from case_lightning.editing.run_folder import ADAPTER_FILES, RunFolder
from case_lightning.editing.session import open_adapter
from case_lightning.editing.store import digest_of
from case_lightning.editing.stream import Row
from case_lightning.errors import RunError


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    Attributes:
        folder: Its folder.
        base: The base model, loaded as it was edited.
        model: The same with the run's adapter.
        edits: The edits, in order.
        rows: All edits of the ledger, those that do not hold, too.
        adapter: Folder that the adapter was read from.
        state: Folder of the run's state.
    """

    folder: RunFolder
    base: Base
    model: PeftModel
    edits: list[Edit]
    rows: list[Row]
    adapter: Path
    state: Path


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
    settings, ledger = folder.read_settings(), Ledger(folder.ledger)
    find_adapter(folder, ledger)  # what is wrong with it is said before a model is loaded
    base = open_base(settings.base, device)
    while True:  # until it did not go on meanwhile
        newest = ledger.snapshots()[-1]
        adapter, rows = find_adapter(folder, ledger), ledger.rows()
        if ledger.snapshots()[-1] == newest:
            break
    edits = [Edit.from_json(row["record"]) for row in rows if holds(row)]
    return LoadedRun(folder, base, open_adapter(base, adapter), edits, rows, adapter, folder.snapshots / newest.name)


def open_base(settings: BaseSettings, device: str | None = None) -> Base:
    """Load the base model that settings speak of.

    Args:
        settings: Which one, and how.
        device: Where to; by default where the settings say.

    Raises:
        BaseModelError: It cannot be loaded.
    """
    return load_base(settings.model, settings.dtype, device or settings.device, settings.trust_remote_code)


def find_adapter(folder: RunFolder, ledger: Ledger) -> Path:
    """A folder with the adapter that the ledger speaks of.

    That is its snapshot, which a process that edits meanwhile leaves as it is; or `adapter`, which it replaces, where
    that is no copy of one.

    Raises:
        RunError: The adapter is missing, or is none that the ledger has ever named.
    """
    snapshots = ledger.snapshots()
    found = digest_of(folder.adapter)
    if not snapshots or (found is None and not (folder.snapshots / snapshots[-1].name).is_dir()):
        raise RunError(f"{folder.adapter} holds no adapter_model.safetensors; restore it from a copy")
    newest = folder.snapshots / snapshots[-1].name
    if found == snapshots[-1].digest and not _is_copy(folder.adapter, newest):
        return folder.adapter
    if found is None or found in {snapshot.digest for snapshot in snapshots}:
        return newest
    raise RunError(
        f"{folder.adapter / 'adapter_model.safetensors'} cannot be read: it is not the one that the ledger names "
        f"(SHA-256 {found[:12]}, not {snapshots[-1].digest[:12]}); restore it from a copy"
    )


def _is_copy(folder: Path, of: Path) -> bool:
    try:
        return all((folder / name).read_bytes() == (of / name).read_bytes() for name in ADAPTER_FILES)
    except OSError:
        return False
