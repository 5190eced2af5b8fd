"""Words on the command line that cannot be used."""

from collections.abc import Callable

import pytest

from tests.bad_input.place import Case, Place, check_case
from tests.editing.tiny_run import make_edits


def in_fit(*words: object) -> Callable[[Place], str]:
    return lambda place: place.refuse_fit(*words)


def in_config(content: str | bytes) -> Callable[[Place], str]:
    return lambda place: place.refuse("fit", "--config", place.write("settings.yaml", content))


def in_run(verb: str, *words: object) -> Callable[[Place], str]:
    return lambda place: place.refuse(verb, "--run", place.run, *words)


def in_history(*words: object) -> Callable[[Place], str]:
    return lambda place: place.refuse("history", place.run, *words)


def ask_too_much(place: Place) -> str:
    edit = make_edits(1)[0].to_json().replace("The capital", "The capital " * 70)
    return place.refuse("evaluate", "--run", place.run, "--data.path", place.write("long.jsonl", edit))


CASES: dict[str, Case] = {
    "an unknown setting": ("fit", in_fit("--training.stps", 3)),
    "an unknown section": ("fit", in_fit("--trainig.steps", 3)),
    "a word for a whole number": ("fit", in_fit("--training.steps", "x")),
    "a fraction for a whole number": ("fit", in_fit("--seed", 1.5)),
    "a word for a number": ("fit", in_fit("--training.learning_rate", "fast")),
    "a word for true or false": ("fit", in_fit("--evaluation.generate", "maybe")),
    "a word that is none of the choices": ("fit", in_fit("--on_contradiction", "fight")),
    "a setting without its value": ("fit", in_fit("--training.steps")),
    "a word too many": ("fit", in_fit("edits.jsonl")),
    "an unknown format": ("fit", in_fit("--data.format", "xml")),
    "a column that the data lack": ("fit", in_fit("--data.columns", "{prompt: question}")),
    "a column for no field of ours": ("fit", in_fit("--data.columns", "{promt: prompt}")),
    "an unknown dtype": ("fit", in_fit("--base.dtype", "float8")),
    "an unknown device": ("fit", in_fit("--base.device", "abacus")),
    "an unknown strategy": ("fit", in_fit("--trainer.strategy", "guess")),
    "a run folder with NUL": ("fit", lambda place: place.refuse_fit("--run_dir", "a\0b")),
    "a configuration that is not there": ("fit --config", lambda place: place.refuse("fit", "--config", "none.yaml")),
    "a configuration with NUL in its path": ("fit --config", lambda place: place.refuse("fit", "--config", "a\0b")),
    "a configuration that is a list": ("fit --config", in_config("- 3")),
    "a configuration of bytes": ("fit --config", in_config(b"\xff\xfe")),
    "a configuration that is cut off": ("fit --config", in_config("training: [")),
    "a run that is not there": ("generate", lambda place: place.refuse("generate", "--run", place.folder / "none")),
    "a run with NUL in its path": ("generate", lambda place: place.refuse("generate", "--run", "a\0b")),
    "a blank prompt": ("generate", in_run("generate", "--prompt", " ")),
    "a prompt with half a character": ("generate", in_run("generate", "--prompt", "a\udc80b")),
    "a prompt longer than the context": ("generate", in_run("generate", "--prompt", "The capital of " * 100)),
    "an answer longer than the context": (
        "generate",
        in_run("generate", "--prompt", "The", "--max_new_tokens", 100_000),
    ),
    "no answer at all": ("generate", in_run("generate", "--prompt", "The", "--max_new_tokens", 0)),
    "a negative batch size": ("evaluate", in_run("evaluate", "--batch_size", -3)),
    "records longer than the context": ("evaluate", ask_too_much),
    "no new facts": ("assess", in_run("assess")),
    "an unknown action": ("history", in_history("frobnicate")),
    "an edit that is not there": ("history", in_history("undo", "nobody")),
    "a batch that is not there": ("history", in_history("undo", "--since", 9)),
    "an edit that is not undone": ("history", in_history("redo", make_edits(1)[0].id)),
    "an export to no known format": ("history", in_history("export", "edits.txt")),
    "an export into no folder": ("history", in_history("export", "no/folder/edits.csv")),
    "an export to a name with NUL": ("history", in_history("export", "a\0.csv")),
    "a comparison with no run": ("history", in_history("diff", "none")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_word(case: str, place: Place) -> None:
    check_case("cli", CASES, case, place)
