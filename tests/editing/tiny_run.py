"""A random Llama with a tokenizer of real words, edits it can learn in seconds, and the command that fits them."""

import json
import re
import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from case_lightning.base import Base, load_base
from case_lightning.config import RunSettings
from case_lightning.data import Edit, Locality
from case_lightning.editing.editor import Editor, put_adapter
from tests.base.tiny_models import SIZES, build_model

COUNTRIES = ("Freedonia", "Sylvania", "Ruritania", "Graustark", "Genovia", "Latveria", "Wakanda", "Zamunda")
COUNTRIES += ("Elbonia", "Sokovia", "Arstotzka", "Molvania")
CITIES = tuple(f"{name[:4]}ville" for name in COUNTRIES)
UNRELATED = "Who founded the newspaper?"


def make_edits(count: int = 8) -> list[Edit]:
    """Capitals of made-up countries, each with a rephrase and an unrelated question."""
    names = list(zip(COUNTRIES, CITIES, strict=True))[:count]
    return [
        Edit(
            id=f"capital-{country}",
            prompt=f"The capital of {country} is",
            target=f"old {city}" if index % 2 else city,
            subject=country,
            rephrases=(f"Where in {country} is the capital?",),
            locality=(Locality(UNRELATED, "minister"), Locality("The score of the game was")),
        )
        for index, (country, city) in enumerate(names)
    ]


def write_edits(path: Path, count: int = 8) -> Path:
    path.write_text("".join(edit.to_json() + "\n" for edit in make_edits(count)), encoding="utf-8")
    return path


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, of the router's calibration text and of the edits."""
    text = (files("case_lightning.subspace") / "calibration.txt").read_text(encoding="utf-8")
    text += " ".join([*COUNTRIES, *CITIES, "Where", "in", "old", "minister", "game", "score", "was"])
    words = dict.fromkeys(re.findall(r"\w+|[^\w\s]+", text))
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )


def save_base(folder: Path) -> Path:
    """A checkpoint whose weights are large enough for a subspace to move its answers."""
    tokenizer = build_tokenizer()
    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    build_model(LlamaConfig(**sizes, initializer_range=0.2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_settings(model: Path | str = "", **sections: dict[str, Any]) -> RunSettings:
    """Settings of a fit of a second or two; `sections` override them, a dict each."""
    settings = RunSettings()
    settings.base.model, settings.base.device = str(model), "cpu"
    defaults = {
        # states of random models mean nothing; where an edit acts is one thing more to get right
        "subspace": {"rank": 4, "relation": "words", "from_subject": True},
        "training": {
            "steps": 8,
            "learning_rate": 0.02,
            "n_rehearsed": 2,
            "protection": 0.1,
            "n_variants": 1,
            "frozen_dtype": "float32",  # on every processor
        },
        "conflict": {"max_subspaces": 3},
        "consolidation": {"every": 5, "batch_size": 3},
        "data": {"batch_size": 4},
    }
    for name, values in [*defaults.items(), *sections.items()]:
        for key, value in values.items():
            setattr(getattr(settings, name), key, value)
    return settings


def make_editor(model: Path, **sections: dict[str, Any]) -> Editor:
    settings = make_settings(model, **sections)
    base = load_base(str(model), device="cpu")
    return Editor(base, put_adapter(base, settings), settings)


def load_tiny(model: Path) -> Base:
    return load_base(str(model), device="cpu")


def command(model: Path, data: Path, run: Path, *more: str) -> list[str]:
    """The words after `python -m case_lightning.fit`."""
    settings = {
        "run_dir": run,
        "base.model": model,
        "base.device": "cpu",
        "data.path": data,
        "data.batch_size": 4,
        "subspace.rank": 4,
        "subspace.relation": "words",
        "subspace.from_subject": "true",
        "conflict.max_subspaces": 3,
        "training.steps": 5,
        "training.learning_rate": 0.02,
        "training.n_variants": 1,
        "training.n_rehearsed": 2,
        "training.protection": 0.1,
        "consolidation.every": 5,
        "consolidation.batch_size": 3,
    }
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))] + list(more)


def read_ledger(run: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(run / "ledger.sqlite")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM edits ORDER BY position")]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
