"""What would become of new facts in a run, told without changing it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from case_lightning.command_line import quiet_libraries
from case_lightning.data import Edit, read_edits
from case_lightning.data.checks import normalize_question
from case_lightning.data.files import locate_data
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.checks import check_records
from case_lightning.editing.editor import Editor
from case_lightning.editing.encoding import make_keys
from case_lightning.editing.loading import load_run
from case_lightning.editing.scoring import Scorer
from case_lightning.editing.store import TRAINING_STATE
from case_lightning.editing.stream import content_of
from case_lightning.editing.training_state import load_training_state

SHOWN = ("id", "prompt", "target", "verdict", "of", "answered_by")

Verdict = dict[str, Any]


def assess_data(path: str, data: dict[str, Any]) -> list[Verdict]:
    """Assess the edits of a file against a run.

    Args:
        path: The run's folder.
        data: Arguments of `read_edits`.

    Returns:
        For each edit `id`, `prompt`, `target`, the `verdict` with what it is `of` (`undone` of an edit that `fit` would
        pass over), and all that it rests on: `known` (the base model's greedy answer is the target), `in_ledger` and
        `contradicts` (ids of edits with the question, and the same or another answer), `answered_by` (id of the edit
        in whose scope the question is now, or `None`), and `conflict` (score with each subspace).
    """
    quiet_libraries()
    edits = read_edits(**data | {"path": locate_data(data["path"])})
    run = load_run(path)
    check_records(run.base, edits)
    settings = run.folder.read_settings()
    editor = Editor(run.base, run.model, settings)
    load_training_state(run.state / TRAINING_STATE, editor.callbacks)
    editor.module.count([row["subspace"] for row in run.rows if row["batch"] is not None])
    verdicts = assess_edits(RoutedModel(run.base, run.model), editor, run.edits, edits)
    undone = {content_of(Edit.from_json(row["record"])): row["id"] for row in run.rows if row["undone_at"]}
    for edit, verdict in zip(edits, verdicts, strict=True):
        if content_of(edit) in undone:
            verdict |= {"verdict": "undone", "of": undone[content_of(edit)]}
    return verdicts


def assess_edits(model: RoutedModel, editor: Editor, held: Sequence[Edit], edits: Sequence[Edit]) -> list[Verdict]:
    """Assess edits against a run that is open.

    Args:
        model: The edited model.
        editor: Its editor, with the states that callbacks remember.
        held: The edits that hold.
        edits: What to assess.

    Returns:
        See `assess_data`.
    """
    scorer = Scorer(model)
    questions = [scorer.encode(edit.prompt, edit.target) for edit in edits]
    known = [answer.exact for answer in scorer.ask(questions, edited=False)]
    answering = _find_answering(model, held, [question.prompt for question in questions])
    scores, conflict = editor.assess(edits), editor.settings.conflict
    roomy = [index for index, count in enumerate(editor.module.members()) if count < conflict.capacity]
    verdicts = []
    for index, edit in enumerate(edits):
        same = [old for old in held if normalize_question(old.prompt) == normalize_question(edit.prompt)]
        found: Verdict = {
            "known": known[index],
            "in_ledger": [old.id for old in same if old.target.strip() == edit.target.strip()],
            "contradicts": [old.id for old in same if old.target.strip() != edit.target.strip()],
            "answered_by": answering[index],
            "conflict": scores[index],
        }
        fact = {"id": edit.id, "prompt": edit.prompt, "target": edit.target}
        verdicts.append(fact | _judge(found, roomy, conflict.threshold) | found)
    return verdicts


def show_verdicts(console: Console, verdicts: Sequence[Verdict]) -> None:
    """A table of verdicts and how often each was reached."""
    table = Table()
    for name in SHOWN:
        table.add_column(name.replace("_", " "), overflow="fold")
    for one in verdicts:
        table.add_row(*(Text(one[name] or "") for name in SHOWN))
    console.print(table)
    counts = Counter(one["verdict"] for one in verdicts)
    console.print(", ".join(f"{count} {name}" for name, count in counts.most_common()))


def _find_answering(model: RoutedModel, held: Sequence[Edit], prompts: Sequence[Tensor]) -> list[str | None]:
    """Id of the edit that answers each prompt as it stands, `None` where none does."""
    if not held:
        return [None] * len(prompts)
    owners = [edit.id for edit in held for _ in make_keys(model.base.tokenizer, edit)]
    keys = [int(model.tuner.router.match(prompt[None])) for prompt in prompts]
    return [owners[key] if key >= 0 else None for key in keys]


def _judge(found: Verdict, roomy: Sequence[int], threshold: float) -> Verdict:
    """The verdict in a word, and what it is about; `roomy` are the subspaces that take more edits."""
    for name in ("in_ledger", "contradicts"):
        if found[name]:
            return {"verdict": name.replace("_", " "), "of": ", ".join(found[name])}
    if found["known"]:
        return {"verdict": "known", "of": "the base model"}
    scores = found["conflict"]
    best = max(roomy, key=lambda index: scores[index], default=None)
    if best is not None and scores[best] < threshold:
        return {"verdict": "conflict", "of": f"subspace {best} ({scores[best]:.3f})"}
    return {"verdict": "free", "of": ""}
