"""The edits that went best and worst, with what the model said before and says now."""

from collections.abc import Sequence

from case_lightning.reporting.answers import Answers, pick_best_and_worst
from case_lightning.reporting.ledger import LedgerEdit
from case_lightning.reporting.markup import Markup, element, join
from case_lightning.reporting.run import Run
from case_lightning.reporting.section import for_each_run, note, section
from case_lightning.reporting.table import data_table, fact_list
from case_lightning.reporting.wording import ABSENT, shorten, write_number, write_share

_SHOWN = 5


def examples_section(runs: Sequence[Run]) -> Markup:
    """Show for each run the worst and the best edits; without generated answers, those with the highest loss."""
    return section(
        "examples",
        "Best and worst edits",
        "Ranked by reliability, then generalization. The answers are generated freely from the prompt.",
        for_each_run(runs, _show_examples, "examples"),
    )


def _show_examples(run: Run, _: str) -> Markup:
    best, worst = pick_best_and_worst(run.answers, _SHOWN)
    if not best:
        return join(note("This run holds no generated answers (examples.json)."), _tabulate_losses(run.edits))
    ledger = {edit.id: edit for edit in run.edits}
    columns = [
        element("div", element("h4", name), *(_show_edit(each, ledger.get(each.id or "")) for each in answers))
        for name, answers in (("Worst", worst), ("Best", best))
        if answers
    ]
    return element("div", *columns, class_="examples")


def _show_edit(answers: Answers, edit: LedgerEdit | None) -> Markup:
    texts = [
        ("Target", answers.target or ABSENT),
        ("Before", _write_answer(answers.unedited)),
        ("After", _write_answer(answers.edited)),
    ]
    scores = f"reliability {write_share(answers.reliability)} · generalization {write_share(answers.generalization)}"
    return element(
        "article",
        element("p", shorten(answers.prompt or ABSENT), class_="prompt", dir="auto"),
        fact_list([(name, shorten(text)) for name, text in texts], "answers"),
        element("p", " · ".join([scores, *_describe(edit)]), class_="scores"),
    )


def _write_answer(text: str | None) -> str:
    if text is None:
        return ABSENT
    return text.strip() or "(no text)"


def _describe(edit: LedgerEdit | None) -> list[str]:
    if edit is None:
        return []
    facts = [] if edit.subspace is None else [f"{edit.decision or 'subspace'} S{edit.subspace}"]
    facts += [] if edit.conflict_score is None else [f"conflict score {write_number(edit.conflict_score)}"]
    return facts if edit.retired is None else [*facts, edit.retired]


def _tabulate_losses(edits: Sequence[LedgerEdit]) -> Markup | None:
    fitted = [(edit.loss, edit) for edit in edits if edit.loss is not None and edit.retired is None]
    highest = sorted(fitted, key=lambda pair: pair[0], reverse=True)[:_SHOWN]
    rows = [
        [shorten(edit.prompt or edit.id), shorten(edit.target or ABSENT), write_number(loss)] for loss, edit in highest
    ]
    return data_table("The edits with the highest loss", ["Prompt", "Target", "Loss"], rows) if rows else None
