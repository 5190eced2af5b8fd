"""A run that is open for editing: what `fit`, `history`, `assess` and a server work with.

Every change goes to disk in one step of the ledger, so a run that is cut off at any moment holds all batches before or
the new one as well, and goes on to the bit as if it had not been cut off.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback
from peft import PeftModel

from case_lightning.base import Base
from case_lightning.config import RunSettings
from case_lightning.data import Edit
from case_lightning.data.checks import normalize_question, settle
from case_lightning.editing.batch_log import TABLE, bring_log_back, drop_log_aside, set_log_aside, trim_log
from case_lightning.editing.consolidation import find_resting, is_due
from case_lightning.editing.editor import BatchOutcome, Editor, put_adapter
from case_lightning.editing.ledger import Ledger, LedgerRow, MadeBatch, Snapshot, Stream, is_left_out
from case_lightning.editing.preparation import Kept
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.store import TRAINING_STATE, Store, is_kept
from case_lightning.editing.stream import Row
from case_lightning.editing.training_state import load_training_state
from case_lightning.errors import CaseError, ConfigError, RunError, UnknownEditError
from case_lightning.subspace import CaseModel

Progress = Callable[[int, int], None]  # edits done, edits in all
WORSE = 1.2  # times the loss of the unedited model, and
MARGIN = 0.5  # more than it: a fit that ends above both has diverged; a known edit may lose a little


class Session:
    """An open run.

    Args:
        settings: How it edits.
        folder: Its folder, made already.
        base: The base model, without an adapter.
        writes: Whether this process writes; of a distributed run the first one does.
        callbacks: Further callbacks of every fit.
    """

    def __init__(
        self,
        settings: RunSettings,
        folder: RunFolder,
        base: Base,
        writes: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Go on from the run's last state, or begin."""
        self.settings, self.folder, self.base, self.writes, self.extra = settings, folder, base, writes, callbacks
        self.ledger = Ledger(folder.ledger)
        self.store = Store(folder, self.ledger)
        self.n_batches = 0
        self._sizes: Counter[int] = Counter()  # edits made of each stream
        self._n_last = 0  # edits made in the last batch
        self.intact = True  # whether memory holds what the ledger says
        self._model: PeftModel | None = None
        self._kept = Kept()
        if writes:
            self.ledger.roll_back()
        if folder.started:
            if writes:
                self.store.recover()
                bring_log_back(folder.logs, self.store.find().name)
            self.restore(self.store.find())
        else:
            self._take(put_adapter(base, settings))

    @property
    def model(self) -> PeftModel:
        """The base model with the adapter as it stands."""
        assert self._model is not None  # noqa: S101  from the first moment
        return self._model

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a state of the run: the adapter, what callbacks remember, and the edits to rehearse."""
        self.intact = False
        path = self.store.path(snapshot)
        in_use = [] if self._model is None else self.editor.past  # what is recalled of it is not run again
        if self._model is not None:
            self._model.unload()
        self._take(open_adapter(self.base, path, is_trainable=True))
        load_training_state(path / TRAINING_STATE, self.editor.callbacks)
        rows = [row for row in self.ledger.rows() if row["batch"] is not None and row["batch"] < snapshot.n_batches]
        self._recall(rows)
        in_use.clear()
        self._sizes = Counter(row["stream"] for row in rows)
        self._n_last = sum(row["batch"] == snapshot.n_batches - 1 for row in rows)
        self.n_batches = snapshot.n_batches
        self.editor.resume(self.n_batches)
        self.intact = True
        self._trim_log()

    def begin(self, stream: Stream) -> None:
        """Enter a new stream; the first one brings the run's empty state with it."""
        empty = None if self.folder.started else self._write_state()
        with self.folder.guarded():
            self.ledger.enter_stream(stream, empty)
            if empty:
                self.store.publish(empty)

    def edit(self, batch: Sequence[Edit], stream: Stream, point: bool = False) -> BatchOutcome | None:
        """Make a batch of edits and write it down.

        Args:
            batch: The edits.
            stream: Their stream as it stands once they are made.
            point: Whether the retention curve gets a point.

        Returns:
            What it came to; `None` where no edit was left to make.

        Raises:
            ConfigError: The fit diverged; the run is as it was before.
            RunError: The folder cannot be written; what was made before is safe.
        """
        chosen = settle(batch, stream.on_contradiction, _ask(self.editor.edits))
        if not chosen:
            self._pass_over(stream, batch)
            return None
        with self._taken_back_on_failure():
            made, outcome = self._make(batch, chosen, stream, point, write=self.writes, ends=stream.finished)
            if made.snapshot:
                with self.folder.guarded():
                    self.folder.retract_figures()
                    self.ledger.enter(made, stream)
                    self.store.publish(made.snapshot)
        return outcome

    def undo(self, ids: Sequence[str], progress: Progress | None = None) -> None:
        """Take edits out as if they had never been made: all batches from theirs on are made again without them.

        Raises:
            UnknownEditError: There is no such edit, or it is undone already.
        """
        rows = {row["id"]: row for row in self.ledger.rows()}
        for one in ids:
            if one not in rows:
                raise UnknownEditError(
                    f"{one!r} is not the id of an edit of {self.folder.path}; `history list` shows them"
                )
            if rows[one]["undone_at"]:
                raise UnknownEditError(f"edit {one!r} is undone already, since {rows[one]['undone_at']}")
        self._remake(_first_batch(list(rows.values()), ids), undone=ids, progress=progress)

    def redo(self, ids: Sequence[str], progress: Progress | None = None) -> None:
        """Make edits that were undone again, at their old place in the stream.

        Raises:
            UnknownEditError: There is no such edit, or it is not undone.
        """
        rows = {row["id"]: row for row in self.ledger.rows()}
        for one in ids:
            if one not in rows or not rows[one]["undone_at"]:
                raise UnknownEditError(
                    f"{one!r} is not the id of an undone edit of {self.folder.path}; `history list` shows them"
                )
        self._remake(_first_batch(list(rows.values()), ids), redone=ids, progress=progress)

    def close(self) -> bool:
        """Let a stream that was cut off end where it is, for other edits to come; `False` where none was.

        Its command takes up the rest of its data whenever it is run again.
        """
        streams = self.ledger.streams() if self.folder.started else []
        if not streams or streams[-1].finished:
            return False
        self._pass_over(replace(streams[-1], finished=True), [])
        return True

    @contextmanager
    def _taken_back_on_failure(self) -> Iterator[None]:
        """Where a change fails at any step, go back to what the ledger says: a later one is not to carry it along.

        A process that is told to end ends at once: the folder is right as it is, and to load all of it would take long.
        """
        try:
            yield
        except Exception:
            if self.folder.started:
                if self.writes:
                    with suppress(RunError):  # where a disk is full still, the next process does it
                        self.store.recover()
                newest = self.store.find()
                bring_log_back(self.folder.logs, newest.name)
                self.restore(newest)
            raise
        except BaseException:
            self.intact = False
            raise

    def _take(self, model: PeftModel) -> None:
        self._model = model
        self.editor = Editor(self.base, model, self.settings, self.folder.logs, self.extra, self._kept)

    def _recall(self, rows: Sequence[Row]) -> None:
        places, settings = [row["subspace"] for row in rows], self.settings
        resting = find_resting(places, settings.conflict.capacity, settings.consolidation)
        for _, batch in groupby(rows, key=lambda row: cast(int, row["batch"])):
            members = list(batch)
            edits = [Edit.from_json(row["record"]) for row in members]
            self.editor.recall(edits, [row["subspace"] for row in members], resting)
        made = {row["id"] for row in rows}
        # their keys went with the snapshot's own
        self.editor.forget({row["id"] for row in rows if row["superseded_by"] in made})
        self.editor.rest()

    def _pass_over(self, stream: Stream, batch: Sequence[Edit]) -> None:
        """Note that no edit of a batch is to be made; the batch before it may thereby be the last of its stream."""
        closing = self._sizes[stream.number] if stream.finished else 0
        before, made, settings = self.editor.n_made - self._n_last, self.editor.n_made, self.settings.consolidation
        due = not is_due(before, made, settings) and is_due(before, made, settings, closing)
        with self._taken_back_on_failure(), self.folder.guarded():
            if due:
                self.editor.consolidate(before)
            if self.writes and not due:
                self.ledger.enter_stream(stream, None, batch, self.n_batches)
            elif self.writes:
                state = self._write_state()
                self.folder.retract_figures()
                self.folder.retract_adapter()  # of the state that is listed no more
                self.ledger.enter_stream(stream, state, batch, self.n_batches)
                self.store.publish(state)
                self.store.recover()

    def _make(
        self, batch: Sequence[Edit], chosen: Sequence[Edit], stream: Stream, point: bool, write: bool, ends: bool
    ) -> tuple[MadeBatch, BatchOutcome]:
        """Make the chosen edits of a batch."""
        superseded = {}
        if stream.on_contradiction == "supersede":
            superseded = self._supersede(chosen) | _find_replaced(batch, chosen)
        self._sizes[stream.number] += len(chosen)
        self._n_last = len(chosen)
        with self.folder.guarded():  # the logger writes, too
            outcome = self.editor.edit(chosen, self._sizes[stream.number] if ends else 0)
        self._check_outcome(outcome)
        seconds = outcome.seconds / len(chosen)
        columns = (chosen, outcome.allocations, outcome.losses, outcome.hits)
        rows = [LedgerRow(*row, seconds) for row in zip(*columns, strict=True)]
        retention = self._measure_retention() if point else None
        self.n_batches += 1
        state = self._write_state() if write else None
        index = self.n_batches - 1
        return MadeBatch(index, stream.number, batch, rows, superseded, state, retention, outcome.masks), outcome

    def _trim_log(self) -> None:
        """Take out of the log what was fitted and then not kept."""
        path = self.folder.logs / TABLE
        text = trim_log(path, self.n_batches) if self.writes else None
        if text is not None:
            with self.folder.guarded():
                self.folder.write_text(path, text)

    def _write_state(self) -> Snapshot:
        with self.folder.guarded():
            return self.store.write(self.editor, self.n_batches)

    def _supersede(self, batch: Sequence[Edit]) -> dict[str, str]:
        """Retire the edits whose question one of a batch has; each one's id to the new one's."""
        asked = {normalize_question(edit.prompt): edit.id for edit in batch}
        old = {edit.id: asked.get(normalize_question(edit.prompt)) for edit in self.editor.edits}
        found = {one: new for one, new in old.items() if new is not None}
        self.editor.retire(found)
        return found

    def _check_outcome(self, outcome: BatchOutcome) -> None:
        before, after = (sum(losses) / len(losses) for losses in (outcome.losses_before, outcome.losses))
        if not math.isfinite(after) or after > max(WORSE * before, before + MARGIN):
            learning_rate = self.settings.training.learning_rate
            raise ConfigError(
                f"the fit of edit batch {self.n_batches} diverged, its loss went from {before:.3g} to {after:.3g}; it "
                f"is taken back, the batches before it are kept; lower training.learning_rate, found {learning_rate}, "
                f"and give another --run_dir"
            )

    def _measure_retention(self) -> tuple[int, float]:
        done = len(self.editor.edits)
        _, hits = self.editor.check(range(done))
        share = sum(hits) / done
        if self.editor.plots:
            self.editor.plots.log_retention(self.editor.trainer, done, share)
        return done, share

    def _remake(
        self, first: int, undone: Sequence[str] = (), redone: Sequence[str] = (), progress: Progress | None = None
    ) -> None:
        """Make all batches from one on again, without some edits or with some more, and write that down in one step."""
        rows = self.ledger.rows()
        start = self.store.find(first)
        kept = [row["position"] for row in rows if row["batch"] is not None and row["batch"] < start.n_batches]
        boundary = max(kept, default=-1)
        gone = {row["id"] for row in rows if row["undone_at"]} - {*redone} | {*undone}
        todo = [
            row
            for row in rows
            if row["position"] > boundary and row["id"] not in gone and not _came_before(row, start.n_batches)
        ]
        with self._taken_back_on_failure():
            with self.folder.guarded():
                set_log_aside(self.folder.logs, self.store.find().name)
            self.restore(start)
            made = list(self._make_again(todo, progress))
            with self.folder.guarded():
                self.folder.retract_figures()
                self.folder.retract_adapter()  # of a state that is listed no more
                self.ledger.rewrite(start.n_batches, undone, redone, made)
                drop_log_aside(self.folder.logs)
                self.store.publish(self.store.find())
                self.store.recover()

    def _make_again(self, rows: Sequence[Row], progress: Progress | None) -> Iterator[MadeBatch]:
        batches = self._cut_again(rows)
        last, done = self.n_batches + len(batches), 0
        for batch, chosen, stream, ends in batches:
            is_last = self.n_batches + 1 == last
            kept = is_kept(self.n_batches + 1, last)
            yield self._make(batch, chosen, stream, point=is_last, write=kept, ends=ends)[0]
            done += len(batch)
            if progress:
                progress(done, len(rows))

    def _cut_again(self, rows: Sequence[Row]) -> list[tuple[list[Edit], list[Edit], Stream, bool]]:
        """Cut edits into the batches that they would come in now.

        Returns:
            The edits of each batch, those of them that are to be made, their stream, and whether it ends it. A batch of
            which none is to be made goes with the one after it, or before it where it is the last.
        """
        streams = {stream.number: stream for stream in self.ledger.streams()}
        asked, waiting = _ask(self.editor.edits), []
        batches: list[tuple[list[Edit], list[Edit], Stream, bool]] = []
        for number, mine in groupby(rows, key=lambda row: cast(int, row["stream"])):
            members, stream = [Edit.from_json(row["record"]) for row in mine], streams[number]
            for start in range(0, len(members), stream.batch_size):
                batch = members[start : start + stream.batch_size]
                waiting += batch
                if chosen := settle(batch, stream.on_contradiction, asked):
                    batches.append((waiting, chosen, stream, False))
                    waiting = []
                    asked |= _ask(chosen)
            if batches and batches[-1][2] is stream:
                batches[-1] = (*batches[-1][:3], stream.finished)
        if batches:
            batches[-1][0].extend(waiting)
        return batches


def open_adapter(base: Base, path: Path, is_trainable: bool = False) -> PeftModel:
    """Put a saved adapter on its base model.

    Raises:
        RunError: It cannot be read.
    """
    try:
        model = PeftModel.from_pretrained(base.model, str(path), is_trainable=is_trainable).eval()
    except CaseError:
        raise
    except Exception as error:  # a broken file: PEFT and safetensors raise almost any type for one
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path} cannot be read ({reason}); restore it from a copy") from error
    cast(CaseModel, model.base_model).read_with(base.tokenizer)
    return model


def _ask(edits: Sequence[Edit]) -> set[str]:
    """The questions of edits."""
    return {normalize_question(edit.prompt) for edit in edits}


def _came_before(row: Row, n_batches: int) -> bool:
    """Whether an edit was left out of one of the first batches."""
    return is_left_out(row) and bool(row["left_out"] < n_batches)


def _find_replaced(batch: Sequence[Edit], latest: Sequence[Edit]) -> dict[str, str]:
    """Id of each edit that a later one of its own batch replaced, to the id of that one."""
    asked = {normalize_question(edit.prompt): edit.id for edit in latest}
    found = {edit.id: asked.get(normalize_question(edit.prompt)) for edit in batch}
    return {one: new for one, new in found.items() if new not in (one, None)}


def _first_batch(rows: Sequence[Row], ids: Sequence[str]) -> int:
    """The first batch that is another one without, or with, some edits, if only as the last of its stream now."""
    first = min((row for row in rows if row["id"] in ids), key=lambda row: row["position"])
    made = [row for row in rows if row["batch"] is not None]
    batch = max((row["batch"] for row in made if row["position"] <= first["position"]), default=0)
    left = [row["batch"] for row in made if row["stream"] == first["stream"] and row["id"] not in ids]
    return batch - 1 if max(left, default=-1) == batch - 1 >= 0 else batch
