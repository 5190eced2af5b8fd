"""The figures of a run, as `metrics.json` holds them; every part of it may be absent or null."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from case_lightning.reporting.fields import field_error, take_list, take_number, take_object, take_text


@dataclass(frozen=True)
class Settings:
    """What a run was made with.

    Attributes:
        protocol: How the edits were scored, `wise` or `harness`: figures of two protocols are not comparable.
        base_model: The model that was edited.
        dataset: Where the edits came from.
        n_edits: How many edits were written.
        batch_size: How many were written at a time.
        seed: The seed of the run.
        environment: Versions and machine, as the run noted them.
    """

    protocol: str | None
    base_model: str | None
    dataset: str | None
    n_edits: float | None
    batch_size: float | None
    seed: float | None
    environment: dict[str, object]


@dataclass(frozen=True)
class Metrics:
    """The figures of one run.

    Attributes:
        settings: What it was made with.
        pre: Scores of the unedited model.
        immediate: Scores of each edit right after its own batch.
        final: Scores of all edits on the last model.
        retention: After how many edits, which reliability on all edits so far.
        adapter_parts: Bytes of each part of the adapter file.
        cost: What the run took and what it leaves behind, in seconds, bytes and counts.
    """

    settings: Settings
    pre: dict[str, float | None]
    immediate: dict[str, float | None]
    final: dict[str, float | None]
    retention: list[tuple[float, float]]
    cost: dict[str, float | None]
    adapter_parts: dict[str, float | None]


def parse_metrics(values: Mapping[str, object], place: str) -> Metrics:
    """Take the figures from the object that `metrics.json` holds.

    Args:
        values: The object.
        place: The file, for messages.

    Raises:
        RunError: If a part is neither absent, null nor of its kind.
    """
    settings = Settings(
        protocol=take_text(values, "protocol", place),
        base_model=take_text(values, "base_model", place),
        dataset=take_text(values, "dataset", place),
        n_edits=take_number(values, "n_edits", place),
        batch_size=take_number(values, "batch_size", place),
        seed=take_number(values, "seed", place),
        environment=take_object(values, "environment", place),
    )
    return Metrics(
        settings=settings,
        pre=_take_numbers(values, "pre", place),
        immediate=_take_numbers(values, "immediate", place),
        final=_take_numbers(values, "final", place),
        retention=_take_retention(values, place),
        cost=_take_numbers(values, "cost", place),
        adapter_parts=_take_numbers(values, "adapter_parts", place),
    )


def _take_numbers(values: Mapping[str, object], key: str, place: str) -> dict[str, float | None]:
    part = take_object(values, key, place)
    return {name: take_number(part, name, f"{place}: {key}") for name in part}


def _take_retention(values: Mapping[str, object], place: str) -> list[tuple[float, float]]:
    points = []
    for point in take_list(values, "retention", place):
        match point:
            case [int() | float() as n_edits, int() | float() as reliability]:
                points.append((float(n_edits), float(reliability)))
            case [_, None]:
                continue
            case _:
                raise field_error(place, "retention", "pairs of numbers", point)
    return sorted(point for point in points if all(map(math.isfinite, point)))
