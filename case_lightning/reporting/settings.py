"""What a run was made with: its main facts, its environment and its whole configuration."""

from collections.abc import Sequence

from case_lightning.reporting.markup import Markup, element, join
from case_lightning.reporting.run import Run
from case_lightning.reporting.section import for_each_run, note, section
from case_lightning.reporting.table import fact_list
from case_lightning.reporting.wording import ABSENT, write_number


def settings_section(runs: Sequence[Run]) -> Markup:
    """Write for each run its main facts, the environment as it noted it, and the text of its configuration."""
    return section(
        "settings",
        "Configuration and environment",
        "Everything needed to repeat the run.",
        for_each_run(runs, _show_settings, "settings"),
    )


def describe_run(run: Run) -> str:
    """Say in one line what a run did; what it does not name is left out."""
    settings = run.metrics.settings
    n_edits = settings.n_edits if settings.n_edits is not None else float(len(run.edits)) or None
    parts = [
        None if n_edits is None else f"{write_number(n_edits)} edits",
        None if settings.dataset is None else f"of {settings.dataset}",
        None if settings.base_model is None else f"into {settings.base_model}",
        None if settings.batch_size is None else f"in batches of {write_number(settings.batch_size)}",
        None if settings.protocol is None else f"· protocol {settings.protocol}",
    ]
    return " ".join(part for part in parts if part is not None)


def _show_settings(run: Run, _: str) -> Markup:
    settings = run.metrics.settings
    written = sorted(edit.created_at for edit in run.edits if edit.created_at is not None)
    facts = [
        ("Run folder", run.name),
        ("Base model", settings.base_model),
        ("Data set", settings.dataset),
        ("Protocol", settings.protocol),
        ("Edits", _write_whole(settings.n_edits)),
        ("Batch size", _write_whole(settings.batch_size)),
        ("Seed", _write_whole(settings.seed)),
        ("First edit written", written[0] if written else None),
        ("Last edit written", written[-1] if written else None),
        *((key, ABSENT if value is None else str(value)) for key, value in settings.environment.items()),
    ]
    return join(fact_list(facts), _show_config(run.config))


def _write_whole(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f}"


def _show_config(config: str | None) -> Markup:
    if config is None:
        return note("This run holds no config.yaml.")
    return element("details", element("summary", "config.yaml"), element("pre", element("code", config), tabindex=0))
