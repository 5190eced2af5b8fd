"""What is left to do of a stream of edits, given what the ledger says was done.

A stream is what one `fit` command brings. The same command again goes on where it stopped; when its data has grown at
the end since it was finished, or other data is given, that is a new stream. What the run knows already is passed over:
edits that hold, and undone ones. A fact that was superseded and is brought again by other data is made again.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

from case_lightning.config import RunSettings
from case_lightning.data import Edit
from case_lightning.data.checks import normalize_question
from case_lightning.data.files import locate_data
from case_lightning.data.hub import HUB_PREFIX
from case_lightning.editing.ledger import Stream, holds
from case_lightning.errors import RunError

Row = dict[str, Any]  # of the ledger's table of edits


@dataclass(frozen=True)
class Plan:
    """What is left to do.

    Attributes:
        stream: The stream as it stands.
        records: What is left of its data, in order.
        rows: The ledger's edits.
        streams: Numbers of streams that read the same file otherwise, so that its records come once more.
        ids: Ids of all records of its data.
        begun: Whether the ledger holds the stream, unfinished.
    """

    stream: Stream
    records: list[Edit]
    rows: list[Row]
    streams: frozenset[int] = frozenset()
    ids: frozenset[str] = frozenset()
    begun: bool = False

    def batches(self) -> Iterator[tuple[list[Edit], Stream]]:
        """Each batch that is left, with the stream as it stands once that is made.

        Records that the run knows are passed over. Where that is all of them there is one batch, of no edits; and so
        there is where a stream was cut off and its data ends there now.
        """
        if not self.records:
            if self.begun:
                yield [], replace(self.stream, finished=True)
            return
        new = self._find_new()
        edits = self._name([self.records[index] for index in new])
        size, n_records = self.stream.batch_size, len(self.records)
        for start in range(0, max(len(new), 1), size):
            done = new[start + size] if start + size < len(new) else n_records
            after = replace(self.stream, n_records=self.stream.n_records + done, finished=done == n_records)
            yield edits[start : start + size], after

    @property
    def _own(self) -> list[Row]:
        return [row for row in self.rows if row["stream"] == self.stream.number]

    @property
    def _others(self) -> list[Row]:
        return [row for row in self.rows if row["stream"] != self.stream.number]

    def _find_new(self) -> list[int]:
        """Which records are to be made, so that of each question what the data says last holds in the end.

        A stream that was cut off is to be planned as at its beginning: what it superseded since stood then.
        """
        own, others = self._own, self._others
        since = {row["id"] for row in own}
        known = [(content_of(Edit.from_json(row["record"])), _as_before(row, since)) for row in others]
        undone = {content for content, row in known if row["undone_at"]}
        standing = {content for content, row in known if holds(row)}
        if self.stream.on_contradiction == "supersede":  # of several that were kept, the last one answers
            answering = {normalize_question(content.prompt): content for content, row in known if holds(row)}
            standing = set(answering.values())
        past = {content for content, row in known if not holds(row)}
        repeated = {content for content, row in known if row["stream"] in self.streams}
        latest = {normalize_question(record.prompt): index for index, record in enumerate(self.records)}
        contested = {normalize_question(Edit.from_json(row["record"]).prompt) for row in own}
        new = list[int]()
        for index, record in enumerate(self.records):
            content, question = content_of(record), normalize_question(record.prompt)
            again = question in contested and self.stream.on_contradiction == "supersede"
            replaced = content in past and (latest[question] != index or content in repeated)
            if content not in undone and not replaced and (again or content not in standing):
                contested.add(question)
                new.append(index)
        return new

    def _name(self, records: Sequence[Edit]) -> list[Edit]:
        """Records whose id an edit of the ledger has get the first number behind it that makes it their own."""
        others = {row["id"] for row in self.rows}
        taken = others | self.ids | {record.id for record in self.records}
        named = []
        for record in records:
            numbered = (f"{record.id}~{number}" for number in count(self.stream.number))
            name = next(one for one in numbered if one not in taken) if record.id in others else record.id
            taken.add(name)
            named.append(replace(record, id=name))
        return named


def _as_before(row: Row, since: Collection[str]) -> Row:
    """A row as it was before some edits came, by their ids."""
    return row | {"superseded_by": None} if row["superseded_by"] in since else row


def plan_stream(settings: RunSettings, records: Sequence[Edit], streams: Sequence[Stream], rows: Sequence[Row]) -> Plan:
    """Find what is left to do.

    Args:
        settings: Of the command.
        records: All records of its data.
        streams: Those of the ledger.
        rows: The ledger's edits.

    Raises:
        RunError: The stream before was not finished, or its data or what was said of contradictions has changed since.
    """
    wanted = asdict(settings.data)
    fresh = Stream(len(streams), wanted, settings.data.batch_size, settings.on_contradiction)
    if not streams:
        return Plan(fresh, list(records), [])
    last = streams[-1]
    if last.data != wanted and not last.finished:
        raise RunError(
            f"run_dir: {settings.run_dir} holds an unfinished run of {last.data['path']}; run that command again to "
            f"finish it before other edits come, or let it end where it is: python -m case_lightning.history "
            f"{settings.run_dir} close"
        )
    if not last.finished and last.on_contradiction != settings.on_contradiction:
        raise RunError(
            f"on_contradiction: {settings.run_dir} holds an unfinished run with {last.on_contradiction}, found "
            f"{settings.on_contradiction}; finish it with that, or let it end where it is: python -m "
            f"case_lightning.history {settings.run_dir} close"
        )
    before = [stream for stream in streams if stream.data == wanted]
    goes_on = bool(before) and is_unchanged(records, before, rows)
    if last.data == wanted and not goes_on:
        where = f"data.path: {last.data['path']} is not what it was when the run began"
        if _find_made(before, rows) <= {content_of(record) for record in records}:
            raise RunError(
                f"{where}: records came in, or were repaired, before the last one that was made; put them at the end, "
                f"or in a file of their own"
            )
        raise RunError(
            f"{where}: edits that were made from it are gone or changed; restore it, or give the new facts in a "
            f"file of their own"
        )
    if goes_on:
        fresh = replace(fresh, n_records=before[-1].n_records)
    stream = fresh if last.finished else last
    path = _resolve(wanted["path"])
    same_file = [one for one in streams if _resolve(one.data["path"]) == path]
    repeated = {one.number for one in same_file if one.data != wanted or not goes_on}
    ids = frozenset(record.id for record in records)
    return Plan(
        stream, list(records[stream.n_records :]), list(rows), frozenset(repeated), ids, begun=not last.finished
    )


def is_unchanged(records: Sequence[Edit], streams: Sequence[Stream], rows: Sequence[Row]) -> bool:
    """Whether data still begins with what streams, at least one, did of it one after another.

    What they made has to be there, and nothing but what the ledger holds: of another stream what they passed over.
    """
    n_records = streams[-1].n_records
    found = {content_of(record) for record in records[:n_records]}
    known = {content_of(Edit.from_json(row["record"])) for row in rows}
    return len(records) >= n_records and _find_made(streams, rows) <= found <= known


def _resolve(path: str) -> str:
    """The same for every spelling of a file's path."""
    return path if path.startswith(HUB_PREFIX) else os.path.realpath(locate_data(path))


def _find_made(streams: Sequence[Stream], rows: Sequence[Row]) -> set[Edit]:
    """What streams brought, without names."""
    numbers = {stream.number for stream in streams}
    return {content_of(Edit.from_json(row["record"])) for row in rows if row["stream"] in numbers}


def content_of(edit: Edit) -> Edit:
    """An edit without its name."""
    return replace(edit, id="-")
