"""The page as a whole."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from case_lightning.errors import RunError
from case_lightning.reporting.allocation import allocation_section
from case_lightning.reporting.conflict import conflict_section
from case_lightning.reporting.curves import cost_section, growth_section, retention_section
from case_lightning.reporting.examples import examples_section
from case_lightning.reporting.headline import headline_section, scores_section
from case_lightning.reporting.markup import Markup, element
from case_lightning.reporting.run import Run, read_run
from case_lightning.reporting.sensitivity import sensitivity_section
from case_lightning.reporting.settings import describe_run, settings_section
from case_lightning.writing import write_whole

# The browser itself is told to load nothing, whatever a run's texts may hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_SECTIONS = (
    headline_section,
    retention_section,
    allocation_section,
    conflict_section,
    growth_section,
    sensitivity_section,
    cost_section,
    examples_section,
    scores_section,
    settings_section,
)


def write_report(run_dirs: Sequence[Path], output: Path) -> Path:
    """Write one page about one run, or about several side by side. The same runs give the same page.

    Args:
        run_dirs: The run folders, each with a `metrics.json`; any other file of a run may be missing.
        output: The page; one that is there is replaced.

    Returns:
        The page.

    Raises:
        RunError: If a run cannot be read, or the page cannot be written.
    """
    if not run_dirs:
        raise RunError("expected at least one run folder, found none")
    page = render_page(_tell_apart([read_run(folder) for folder in run_dirs]))
    try:
        write_whole(output, page)
    except (OSError, ValueError) as error:  # ValueError: a path without a name
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{output}: expected a place where the report can be written; {reason}") from error
    return output


def render_page(runs: Sequence[Run]) -> str:
    """Return the page about runs as HTML."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · case_lightning"),
        element("style", Markup(read_stylesheet())),
    )
    body = element("body", _head_page(title, runs), element("main", *(write(runs) for write in _SECTIONS)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def read_stylesheet() -> str:
    """Return the style sheet that every page carries in itself."""
    return files(__package__).joinpath("report.css").read_text(encoding="utf-8")


def _tell_apart(runs: list[Run]) -> list[Run]:
    names = Counter(run.name for run in runs)
    return [replace(run, name=str(run.folder)) if names[run.name] > 1 else run for run in runs]


def _head_page(title: str, runs: Sequence[Run]) -> Markup:
    kicker = element("p", "case_lightning run report", class_="kicker")
    lines = [element("li", element("b", run.name), f" {describe_run(run)}") for run in runs]
    what = element("p", describe_run(runs[0])) if len(runs) == 1 else element("ul", *lines)
    return element("header", kicker, element("h1", title), what)
