"""The parts that every section of the page is made of."""

from collections.abc import Callable, Sequence

from case_lightning.reporting.markup import Markup, element, join
from case_lightning.reporting.run import Run


def section(key: str, heading: str, explanation: str, *content: str | None) -> Markup:
    """Write a section: heading and explanation at the side, the content beside them.

    Args:
        key: The section's own name, to which a link can point.
        heading: What it shows.
        explanation: How to read it.
        content: What it holds; a plain text is escaped.
    """
    aside = element("header", element("h2", heading, id=f"{key}-heading"), element("p", explanation))
    body = element("div", *content, class_="content")
    return element("section", aside, body, id=key, aria_labelledby=f"{key}-heading")


def note(text: str) -> Markup:
    """Write what is said in the place of something that the run does not hold."""
    return element("p", text, class_="note")


def for_each_run(runs: Sequence[Run], draw: Callable[[Run, str], str], key: str) -> Markup:
    """Draw one thing for each run, under the run's name where there are several.

    Args:
        runs: The runs.
        draw: What to draw, given the run and a name that is its own within the page.
        key: The section's own name.
    """
    parts = []
    for index, run in enumerate(runs):
        heading = element("h3", run.name) if len(runs) > 1 else None
        parts.append(element("div", heading, draw(run, f"{key}-{index}"), class_="run"))
    return join(*parts)


def group_by_protocol(runs: Sequence[Run]) -> dict[str, list[tuple[int, Run]]]:
    """Group runs, each with its number, by the protocol of their scores: those of two are never put side by side."""
    groups: dict[str, list[tuple[int, Run]]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.metrics.settings.protocol or "unnamed", []).append((index, run))
    return groups
