"""The ledger of a run, shown, exported, compared, and changed."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from case_lightning.command_line import quiet_libraries
from case_lightning.data.checks import normalize_question
from case_lightning.display import LiveDisplay, make_console
from case_lightning.editing.ledger import Ledger, holds
from case_lightning.editing.loading import open_base
from case_lightning.editing.run_folder import RunFolder
from case_lightning.editing.session import Session
from case_lightning.editing.stream import Row
from case_lightning.errors import ConfigError, RunError

SHOWN = ("id", "batch", "prompt", "target", "subspace")
WRITERS: dict[str, Callable[[Dataset, str], Any]] = {
    ".jsonl": lambda table, path: table.to_json(path, force_ascii=False),
    ".csv": lambda table, path: table.to_csv(path, quoting=csv.QUOTE_ALL),  # else not every line end is quoted
    ".parquet": Dataset.to_parquet,
}


def show(path: str, action: str, word: str = "", every: bool = False) -> None:
    """List, search, show one edit, export or compare.

    Args:
        path: The run's folder.
        action: `list`, `search`, `show`, `export` or `diff`.
        word: What the action is about.
        every: Whether edits are exported that do not hold, too.
    """
    console, rows = make_console(), _read_rows(path)
    if action == "show":
        _show_one(console, rows, word)
    elif action == "export":
        chosen = [row for row in rows if every or holds(row)]
        _export(chosen, Path(word))
        console.print(f"{len(chosen)} of {len(rows)} edits written to {word}")
    elif action == "diff":
        _show_difference(console, rows, _read_rows(word))
    else:
        found = [row for row in rows if word.casefold() in f"{row['id']} {row['prompt']} {row['target']}".casefold()]
        _show_rows(console, found, f"{len(found)} of {len(rows)} edits" if word else f"{len(rows)} edits")


def close(path: str) -> None:
    """Let a run that was cut off end where it is.

    Raises:
        RunError: It cannot be opened or written.
    """
    console, folder = make_console(), RunFolder(path)
    with _opened(folder) as session:
        done = session.close()
    console.print(f"{folder.path}: {'ended where it was cut off' if done else 'was not cut off'}")


def change(path: str, action: str, ids: Sequence[str], since: int | None = None) -> None:
    """Undo or redo edits of a run.

    Args:
        path: The run's folder.
        action: `undo` or `redo`.
        ids: Which edits.
        since: Or all from this batch on.

    Raises:
        RunError: There are no such edits, or the run cannot be opened or written.
    """
    console, folder, rows = make_console(), RunFolder(path), _read_rows(path)
    if since is not None:
        ids = [row["id"] for row in rows if not row["undone_at"] and _find_batch(row) >= since]
        if not ids:
            raise RunError(f"--since: {folder.path} has no batch {since}; `history list` shows them")
    with _opened(folder) as session, LiveDisplay(console) as display:
        operate = session.undo if action == "undo" else session.redo
        operate(list(dict.fromkeys(ids)), display.report)
    verb = "undone" if action == "undo" else "made again"
    console.print(f"{len(set(ids))} edits {verb}, {len(session.editor.edits)} hold")
    console.print(f"score it:   python -m case_lightning.evaluate --run {folder.path}")


@contextmanager
def _opened(folder: RunFolder) -> Iterator[Session]:
    quiet_libraries()
    settings = folder.read_settings()
    with folder.locked():
        yield Session(settings, folder, open_base(settings.base))


def _read_rows(path: str) -> list[Row]:
    folder = RunFolder(path)
    folder.read_config()
    return Ledger(folder.ledger).rows()


def _show_rows(console: Console, rows: Sequence[Row], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in (*SHOWN, "state"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in SHOWN), Text(_describe(row)))
    console.print(table)


def _show_one(console: Console, rows: Sequence[Row], wanted: str) -> None:
    row = next((row for row in rows if row["id"] == wanted), None)
    if row is None:
        raise RunError(f"{wanted!r} is not the id of an edit; `history list` shows them")
    table = Table(show_header=False)
    for name, value in row.items():
        if name != "record" and value is not None:
            table.add_row(name, Text(str(value)))
    took = [other["id"] for other in rows if other["superseded_by"] == wanted]
    table.add_row("supersedes", Text(", ".join(took) or "nothing"))
    for name, value in json.loads(row["record"]).items():
        if name in ("rephrases", "locality") and value:
            table.add_row(name, Text("\n".join(one if isinstance(one, str) else one["prompt"] for one in value)))
    console.print(table)


def _export(rows: Sequence[Row], path: Path) -> None:
    """Write rows, by the file's ending; they can be read as data again."""
    if path.suffix not in WRITERS:
        raise ConfigError(f"history export: expected a file that ends in {', '.join(WRITERS)}, found {path}")
    if "\0" in str(path) or not path.parent.is_dir():
        raise ConfigError(
            f"history export: {path} cannot be written: {path.parent} is no folder, or there is a NUL in the name"
        )
    records = [
        {**json.loads(row["record"]), **{key: value for key, value in row.items() if key != "record"}} for row in rows
    ]
    if path.suffix == ".csv":
        records = [{key: json.dumps(v) if isinstance(v, list) else v for key, v in one.items()} for one in records]
    disable_progress_bars()
    part = path.with_name(path.name + ".part")
    try:
        WRITERS[path.suffix](Dataset.from_list(records), str(part))
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"history export: {path} cannot be written ({error.strerror or error})") from error


def _show_difference(console: Console, mine: Sequence[Row], theirs: Sequence[Row]) -> None:
    """Questions that only one run answers, or to which the two have another answer."""
    here, there = _answers(mine), _answers(theirs)
    table = Table(title="what differs", title_justify="left")
    for name in ("prompt", "here", "there"):
        table.add_column(name, overflow="fold")
    for question in dict.fromkeys([*here, *there]):
        if here.get(question) != there.get(question):
            table.add_row(*(Text(one) for one in (question, here.get(question, "-"), there.get(question, "-"))))
    same = sum(there.get(question) == answer for question, answer in here.items())
    console.print(f"{same} edits are the same")
    if table.row_count:
        console.print(table)


def _answers(rows: Sequence[Row]) -> dict[str, str]:
    return {normalize_question(row["prompt"]): row["target"] for row in rows if holds(row)}


def _find_batch(row: Row) -> int:
    """The batch that an edit was made in or left out of; -1 where that is none."""
    return next((row[name] for name in ("batch", "left_out") if row[name] is not None), -1)


def _describe(row: Row) -> str:
    if row["undone_at"]:
        return f"undone {row['undone_at']}"
    if row["superseded_by"]:
        return f"superseded by {row['superseded_by']}"
    return "holds" if holds(row) else "left out"
