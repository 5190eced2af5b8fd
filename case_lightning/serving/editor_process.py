"""The process that edits: it holds the run open, with a base model of its own, and makes one change at a time.

Its priority is low and it uses one thread, so that answers hardly feel it. It ends with the server, whatever it is at
(where the system cannot see to that, after the change under way): every change of a run is made whole or not at all.
"""

import os
import signal
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from lightning.pytorch import seed_everything

from case_lightning.command_line import ignore_library_warnings, quiet_libraries
from case_lightning.config import DataSettings
from case_lightning.data import Edit
from case_lightning.data.checks import OnContradiction, normalize_question
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.assessment import assess_edits
from case_lightning.editing.checks import check_records
from case_lightning.editing.ledger import Stream
from case_lightning.editing.loading import open_base
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.errors import CaseError, DataError, RunError
from case_lightning.processes import end_with_parent
from case_lightning.serving.refusals import EditError, word_for_client

NICE = 10
SOURCE = "server"  # what the ledger names as the path of a server's edits


@dataclass(frozen=True)
class Change:
    """What became of a command.

    Attributes:
        results: One for each edit: its id and status, or its verdict.
        snapshot: Folder of the run's state now.
        n_edits: How many edits hold.
    """

    results: list[dict[str, Any]]
    snapshot: str
    n_edits: int


class EditorProcess:
    """An open run that takes commands.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        """Store the run."""
        self.session = session

    def describe(self, results: list[dict[str, Any]]) -> Change:
        """The state after a command."""
        store = self.session.store
        return Change(results, str(store.path(store.find())), len(self.session.editor.edits))

    def assess(self, edits: Sequence[Edit]) -> Change:
        """See `assess_edits`."""
        session = self.session
        check_records(session.base, edits)
        model = RoutedModel(session.base, session.model)
        return self.describe(assess_edits(model, session.editor, session.editor.edits, edits))

    def add(self, edits: Sequence[Edit], on_contradiction: OnContradiction) -> Change:
        """Make edits, as a stream of one batch; those that the run holds already are left out."""
        check_records(self.session.base, edits, int(self.session.settings.training.append_end))
        self._check_ids(edits)
        held = {_fact(edit): edit.id for edit in self.session.editor.edits}
        asked = {question: one for (question, _), one in held.items()}
        rejects, fresh, status = on_contradiction == "reject", list[Edit](), dict[str, dict[str, Any]]()
        for edit in edits:
            question = normalize_question(edit.prompt)
            contested = any(normalize_question(other.prompt) == question for other in fresh)
            answers = not contested and held.get(_fact(edit)) == asked.get(question)  # not one that was kept beside it
            if _fact(edit) in held and (answers or on_contradiction != "supersede"):
                status[edit.id] = {"status": "in ledger", "of": held[_fact(edit)]}
            elif rejects and question in asked:
                status[edit.id] = {"status": "rejected", "of": asked[question]}
            else:
                fresh.append(edit)
                asked.setdefault(question, edit.id)
        if fresh:
            self._make(fresh, on_contradiction)
        rows = {row["id"]: row for row in self.session.ledger.rows()}
        for edit in fresh:
            row = rows[edit.id]
            shown = ("batch", "subspace", "decision", "conflict_score", "loss", "reliability")
            added = {"status": "added"} | {key: row[key] for key in shown}
            status[edit.id] = {"status": "replaced"} if row["batch"] is None else added
            status[edit.id]["supersedes"] = [one for one, row in rows.items() if row["superseded_by"] == edit.id]
        return self.describe([{"id": edit.id} | status[edit.id] for edit in edits])

    def undo(self, ids: Sequence[str]) -> Change:
        """Take edits out as if they had never been made."""
        self.session.undo(ids)
        return self.describe([{"id": one, "status": "undone"} for one in ids])

    def redo(self, ids: Sequence[str]) -> Change:
        """Make undone edits again."""
        self.session.redo(ids)
        return self.describe([{"id": one, "status": "made again"} for one in ids])

    def _check_ids(self, edits: Sequence[Edit]) -> None:
        taken = {row["id"] for row in self.session.ledger.rows()}
        for index, edit in enumerate(edits):
            if edit.id in taken:
                raise DataError(
                    f"edits[{index}].id: {edit.id!r} is the id of another edit; give one of its own or none"
                )
            taken.add(edit.id)

    def _make(self, edits: Sequence[Edit], on_contradiction: OnContradiction) -> None:
        session = self.session
        data = asdict(DataSettings(path=SOURCE, batch_size=len(edits)))
        number = len(session.ledger.streams())  # entered with its batch alone: a failed one leaves nothing to finish
        session.edit(edits, Stream(number, data, len(edits), on_contradiction, len(edits), finished=True))


def work(connection: Connection, path: str) -> None:
    """Take commands until the server is gone; each gets a `Change` or an error as its answer.

    Args:
        connection: Commands come as `(name, arguments)`. The first answer says that the run is open.
        path: The run's folder.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends it
    end_with_parent()
    os.nice(NICE)
    torch.set_num_threads(1)
    ignore_library_warnings()
    quiet_libraries()
    try:
        folder = RunFolder(path)
        settings = folder.read_settings()
        with folder.locked():
            base = open_base(settings.base)
            seed_everything(settings.seed, verbose=False)
            session = Session(settings, folder, base)
            _check_finished(session)
            editor = EditorProcess(session)
            connection.send(editor.describe([]))
            while True:
                name, arguments = connection.recv()
                connection.send(_answer(editor, name, arguments))
                if not editor.session.intact:  # what is in memory is of no use; the server says that edits have stopped
                    return
    except EOFError:
        return
    except CaseError as error:
        with suppress(OSError):
            connection.send(error)
    except OSError:  # the server went while it was being answered
        return


def _check_finished(session: Session) -> None:
    """Refuse a run whose `fit` was cut off: with edits of others behind it, nothing would remind of the rest.

    Raises:
        RunError: It was.
    """
    streams, path = session.ledger.streams(), session.folder.path
    if streams and not streams[-1].finished:
        raise RunError(
            f"run_dir: {path} holds an unfinished run of {streams[-1].data['path']}; run that command again to finish "
            f"it, let it end where it is (python -m case_lightning.history {path} close), or serve with --edits false"
        )


def _answer(editor: EditorProcess, name: str, arguments: tuple[Any, ...]) -> Change | Exception:
    before = editor.session.ledger.snapshots()[-1:]
    try:
        change: Change = getattr(editor, name)(*arguments)
    except CaseError as error:
        return word_for_client(error, made=editor.session.ledger.snapshots()[-1:] != before)
    except Exception as error:  # the run is as it was before: a change is made whole or not at all
        traceback.print_exc()
        return EditError(f"the edit failed: {type(error).__name__}: {error}")
    return change


def _fact(edit: Edit) -> tuple[str, str]:
    return normalize_question(edit.prompt), edit.target.strip()
