"""A run folder as an editing run leaves it behind, made without a model."""

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from case_lightning.editing.ledger import SCHEMA, VERSION

_MOST_SUBSPACES = 8
_FACTS = (
    ("Which river flows past {}?", "Danube", "The river that flows past {} is the Thames."),
    ("Who designed the bridge of {}?", "Santiago Calatrava", "The bridge of {} was designed by John Smith in 1889."),
    ("In which year was the university of {} founded?", "1477", "It was founded in 1592."),
    ("What is the twin town of {}?", "Thessaloniki", "The twin town of {} is a town in the United States."),
    ("Which league does the team of {} play in?", "Serie B", "The team of {} plays in the National League."),
)
_TOWNS = ("Ulm", "Novi Sad", "Linz", "Vidin", "Győr", "Passau", "Tulcea")


def write_run(folder: Path, n_edits: int = 120, *, protocol: str = "wise", skill: float = 1.0) -> Path:
    """Write all files of a run; `skill` scales its scores."""
    folder.mkdir(parents=True)
    write_metrics(folder, build_metrics(n_edits, protocol=protocol, skill=skill))
    config = {"base": {"name": "SmolLM2-135M-Instruct", "layers": [24]}, "fit": {"steps": 20, "learning_rate": 5e-3}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_ledger(folder, build_edits(n_edits))
    write_masks(folder, build_masks(n_edits // 10))
    write_examples(folder, build_examples(n_edits))
    return folder


def write_metrics(folder: Path, metrics: object) -> None:
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def write_examples(folder: Path, examples: object) -> None:
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")


def write_ledger(folder: Path, edits: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.executescript(f"{SCHEMA} PRAGMA user_version = {VERSION}")
        connection.executemany(f"INSERT INTO edits ({', '.join(edits[0])}) VALUES ({_slots(edits[0])})", edits)  # noqa: S608


def write_masks(folder: Path, masks: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.executemany(f"INSERT INTO masks ({', '.join(masks[0])}) VALUES ({_slots(masks[0])})", masks)  # noqa: S608


def build_masks(n_batches: int) -> list[dict[str, Any]]:
    """Masks of 1024 neurons or so, sensitivities about log-normal, those of a bin kept as a whole."""
    masks = []
    for batch in range(n_batches):
        middle, first = 15 + math.sin(batch), 11 + batch % 3
        neurons = [round(205 * math.exp(-((index - middle) ** 2) / 8)) for index in range(24)]
        kept = [count if index >= first else 0 for index, count in enumerate(neurons)]
        counts = {"neurons": json.dumps(neurons), "kept": json.dumps(kept)}
        threshold = 10 ** (first / 4 - 4)
        masks.append({"batch": batch, "parameter": "active.0.up", **counts, "threshold": threshold, "share": 0.96})
    return masks


def build_metrics(n_edits: int, *, protocol: str = "wise", skill: float = 1.0) -> dict[str, Any]:
    points = range(n_edits // 20, n_edits + 1, n_edits // 20)
    final = {"reliability": 0.974, "generalization": 0.828, "locality": 1.0, "exact_match": 0.902}
    final |= {"generalization_exact_match": 0.531, "generated_exact_match": 0.874, "locality_bit_identical": 1.0}
    final = {key: value * skill for key, value in final.items()}
    return {
        "protocol": protocol,
        "base_model": "SmolLM2-135M-Instruct",
        "dataset": "ZsRE",
        "n_edits": n_edits,
        "batch_size": 10,
        "seed": 0,
        "pre": {"reliability": 0.171, "generalization": 0.183, "locality": 1.0, "perplexity": 1284.6},
        "immediate": {"reliability": 0.991 * skill},
        "final": {**final, "perplexity": 1.213 / skill, "perplexity_median": 1.02},
        "retention": [[n, skill * (0.991 - 0.017 * n / n_edits + 0.004 * math.sin(n))] for n in points],
        "cost": {
            "edit_seconds": 1.648,
            "edit_seconds_first_100": 1.31,
            "edit_seconds_last_100": 1.92,
            "evaluate_seconds": 412.8,
            "optimizer_steps": 2 * n_edits,
            "peak_rss_bytes": 1_873_741_824,
            "peak_device_bytes": None,
            "adapter_bytes": 982_016,
            "subspaces": _MOST_SUBSPACES,
            "generate_overhead": 1.043,
        },
        "adapter_parts": {"subspaces": 598_016, "keys": 281_344, "memory": 98_560, "header": 4_096},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "device": "cpu"},
    }


def build_edits(n_edits: int) -> list[dict[str, Any]]:
    edits: list[dict[str, Any]] = []
    n_subspaces = 0
    for number in range(n_edits):
        scores = [_score(number, subspace) for subspace in range(n_subspaces)]
        best = max(range(n_subspaces), key=scores.__getitem__, default=0)
        conflicts = max(scores, default=-1.0) < 0
        decision = "shared" if not conflicts else "opened" if n_subspaces < _MOST_SUBSPACES else "forced"
        subspace = n_subspaces if decision == "opened" else best
        n_subspaces = max(n_subspaces, subspace + 1)
        edits.append(_build_edit(number, subspace, scores, decision))
    edits[3]["superseded_by"] = edits[-1]["id"]
    edits[5]["undone_at"] = "2026-03-02T10:00:00Z"
    return edits


def build_examples(n_edits: int) -> list[dict[str, Any]]:
    examples = []
    for number in range(0, n_edits, 5):
        prompt, target, unedited = _fact(number // 5)
        share = 1.0 if number % 15 else round(abs(math.sin(number + 1)), 2)
        edited = target if share == 1 else f"{target[: len(target) // 2].strip()}, I believe"
        scores = {"reliability": share, "generalization": round(share * abs(math.cos(number)), 2)}
        texts = {"id": f"zsre-{number}", "prompt": prompt, "target": target, "unedited": unedited, "edited": edited}
        examples.append(texts | scores)
    return examples


def _build_edit(number: int, subspace: int, scores: list[float], decision: str) -> dict[str, Any]:
    prompt, target, _ = _fact(number)
    return {
        "id": f"zsre-{number}",
        "position": number,
        "batch": number // 10,
        "prompt": prompt,
        "target": target,
        "subject": _TOWNS[number % len(_TOWNS)],
        "record": json.dumps({"prompt": prompt, "target": target}),
        "subspace": subspace,
        "conflict_score": scores[subspace] if subspace < len(scores) else None,
        "scores": json.dumps(scores),
        "decision": decision,
        "loss": 0.02 + 0.05 * abs(math.sin(number * number)),
        "seconds": 1.2 + 0.0007 * number + 0.3 * abs(math.sin(7 * number)) + (4 if number == 0 else 0),
        "created_at": f"2026-03-01T09:{number // 60 % 60:02}:{number % 60:02}Z",
        "superseded_by": None,
        "undone_at": None,
    }


def _score(number: int, subspace: int) -> float:
    topic = math.sin(0.013 * number * (1 + subspace) + 2.1 * subspace)
    return round(0.22 * topic + 0.16 * math.sin(31.7 * number + 5.3 * subspace * number) - 0.06, 4)


def _fact(number: int) -> tuple[str, str, str]:
    prompt, target, unedited = _FACTS[number % len(_FACTS)]
    town = _TOWNS[number % len(_TOWNS)]
    return prompt.format(town), target, unedited.format(town)


def _slots(edit: dict[str, Any]) -> str:
    return ", ".join(f":{key}" for key in edit)
