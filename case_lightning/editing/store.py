"""The states of a run on disk: snapshots that never change, and the adapter folder, a copy of the last one.

A batch is made in this order: its snapshot is written beside the others; the ledger's transaction names it, which is
the moment in which the batch is made; the adapter folder is replaced. Wherever that is cut off, `recover` brings the
folder to what the ledger says: snapshots that it does not name go, and an adapter that is behind is replaced.

The last few states are kept, and of older ones ever fewer, about two for each doubling of age: enough to take back a
recent edit in seconds without keeping a copy for every batch.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from case_lightning.editing.editor import Editor
from case_lightning.editing.ledger import Ledger, Snapshot
from case_lightning.editing.run_folder import ADAPTER_FILES, RunFolder
from case_lightning.editing.training_state import save_training_state
from case_lightning.errors import RunError

ADAPTER = "adapter_model.safetensors"
TRAINING_STATE = "training.safetensors"
PART = "writing.part"
STATE_NAME = re.compile(r"\d{6,}-[0-9a-f]{8}-[0-9a-f]{8}")


class Store:
    """Writes and finds the states of one run.

    Args:
        folder: The run's folder.
        ledger: Its ledger.
    """

    def __init__(self, folder: RunFolder, ledger: Ledger) -> None:
        """Note the places."""
        self.folder, self.ledger = folder, ledger

    def recover(self) -> None:
        """Bring the folder to what the ledger says, after a run that was cut off.

        Raises:
            RunError: The ledger is of another run, or an older one of this; nothing is changed.
        """
        listed = self.ledger.snapshots()
        if listed:
            self._check_ledger(listed)
        kept = {snapshot.name for snapshot in listed}
        with self.folder.guarded():
            for path in self.folder.snapshots.iterdir() if self.folder.snapshots.is_dir() else ():
                is_state = path.name == PART or STATE_NAME.fullmatch(path.name)
                if is_state and path.name not in kept:
                    shutil.rmtree(path)
            if listed and digest_of(self.folder.adapter) != listed[-1].digest:
                self.publish(listed[-1])

    def find(self, n_batches: int | None = None) -> Snapshot:
        """The last state that holds at most so many batches; by default the run's own.

        Raises:
            RunError: It is gone.
        """
        fitting = [one for one in self.ledger.snapshots() if n_batches is None or one.n_batches <= n_batches]
        for snapshot in reversed(fitting):
            if digest_of(self.folder.snapshots / snapshot.name) == snapshot.digest:
                return snapshot
            if n_batches is None:
                break
        raise RunError(f"{self.folder.snapshots}: the state to go on from is missing or broken; restore it from a copy")

    def write(self, editor: Editor, n_batches: int) -> Snapshot:
        """Write the state of an editor; the ledger does not know of it yet."""
        part = self.folder.snapshots / PART
        shutil.rmtree(part, ignore_errors=True)
        editor.save(part)
        save_training_state(part / TRAINING_STATE, editor.callbacks)
        digest, state = _hash(part / ADAPTER), _hash(part / TRAINING_STATE)
        name = f"{n_batches:06d}-{digest[:8]}-{state[:8]}"
        if (self.folder.snapshots / name).exists():  # the same state was there before
            shutil.rmtree(part)
        else:
            _sync(part)
            part.rename(self.folder.snapshots / name)
            _sync_folder(self.folder.snapshots)
        return Snapshot(n_batches, name, digest)

    def publish(self, snapshot: Snapshot) -> None:
        """Put a state into the adapter folder, where PEFT looks for it, and let go of old ones."""
        source, part = self.folder.snapshots / snapshot.name, self.folder.path / "adapter.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name in ADAPTER_FILES:
            shutil.copyfile(source / name, part / name)  # a link would let a change of it change the state
        _sync(part)
        self.folder.replace_adapter(part)
        self._thin(snapshot.n_batches)

    def path(self, snapshot: Snapshot) -> Path:
        """Its folder."""
        return self.folder.snapshots / snapshot.name

    def _check_ledger(self, listed: Sequence[Snapshot]) -> None:
        """Refuse a ledger whose last state is gone, or of whose states the adapter is none but one beside them."""
        if not self.path(listed[-1]).is_dir():
            raise RunError(f"{self.path(listed[-1])} is missing; restore it, or the ledger that goes with the states")
        found = digest_of(self.folder.adapter)
        if found is None or found in {one.digest for one in listed}:
            return
        others = {path.name for path in self.folder.snapshots.iterdir()} - {one.name for one in listed}
        if any(STATE_NAME.fullmatch(name) and name.split("-")[1] == found[:8] for name in others):
            raise RunError(
                f"{self.folder.adapter} is a state that the ledger does not name; restore the run's last ledger"
            )

    def _thin(self, n_batches: int) -> None:
        spare = [one.name for one in self.ledger.snapshots() if not is_kept(one.n_batches, n_batches)]
        if spare:
            self.ledger.forget_snapshots(spare)
            for name in spare:
                shutil.rmtree(self.folder.snapshots / name, ignore_errors=True)


def is_kept(index: int, last: int) -> bool:
    """Whether a state is kept: the youngest, then multiples of 2, 4, 8 … as their age doubles."""
    age = last - index
    return age < 4 or index % (1 << (age.bit_length() - 2)) == 0


def digest_of(folder: Path) -> str | None:
    """SHA-256 of a folder's `adapter_model.safetensors`; `None` where it has none."""
    try:
        return _hash(folder / ADAPTER)
    except OSError:
        return None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
