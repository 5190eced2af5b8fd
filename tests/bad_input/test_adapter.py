"""Adapter folders that were damaged, mixed up, tampered with, or made for something else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

import case_lightning.subspace  # noqa: F401  makes PEFT know it
from case_lightning.errors import CaseError
from tests.bad_input.place import Case, Place, check_case
from tests.editing.tiny_run import command

WEIGHTS = "adapter_model.safetensors"
ASKED = "The capital of Freedonia is"  # in the scope of an edit


def ask(place: Place) -> str:
    return place.refuse("generate", "--run", place.run, "--prompt", ASKED)


def cut_off(place: Place) -> None:
    path = place.run / "adapter" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def flip_bit(place: Place) -> None:
    path = place.run / "adapter" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def take_away(place: Place) -> None:
    shutil.rmtree(place.run / "adapter")
    shutil.rmtree(place.run / "snapshots")


def make_other(place: Place) -> Path:
    """Another run of the same base, its paths apart."""
    other = place.folder.parent / "other"
    assert place.call("fit", *command(place.model, place.data, other, "--seed", "1")) == 0
    return other


def swap(name: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        source, target = make_other(place) / name, place.run / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        source.rename(target)

    return change


def change_base(place: Place) -> None:
    """Another base where the run's was."""
    model = LlamaForCausalLM.from_pretrained(place.model)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(2)
    model.save_pretrained(place.folder / "base")
    for path in place.model.glob("tokenizer*"):
        shutil.copy(path, place.folder / "base")
    config = place.run / "config.yaml"
    config.write_text(config.read_text().replace(str(place.model), str(place.folder / "base")))


def after(change: Callable[[Place], None]) -> Case:
    """A question to a run that was changed."""

    def attempt(place: Place) -> str:
        change(place)
        return hide_hashes(ask(place))

    return "a run", attempt


def load(place: Place) -> str:
    """Loading the adapter without its run, which knows what it should be."""
    base = LlamaForCausalLM.from_pretrained(place.model)

    def answer() -> None:
        model = PeftModel.from_pretrained(base, str(place.run / "adapter"))
        model(AutoTokenizer.from_pretrained(place.model)(ASKED, return_tensors="pt").input_ids)

    return hide_hashes(place.refuse_call(answer, kind=CaseError))


def configured(**fields: object) -> Case:
    def attempt(place: Place) -> str:
        path = place.run / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return hide_hashes(ask(place))

    return "a run", attempt


def tampered(change: Callable[[dict[str, Tensor]], object]) -> Case:
    def attempt(place: Place) -> str:
        path = place.run / "adapter" / WEIGHTS
        state = load_file(path)
        change(state)
        save_file(state, path)
        return load(place)

    return "PeftModel.from_pretrained", attempt


def find(state: dict[str, Tensor], name: str) -> Tensor:
    return next(value for key, value in state.items() if key.endswith(name))


def remove(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        del state[next(key for key in state if key.endswith(name))]

    return change


def hide_hashes(line: str) -> str:
    """Fingerprints and digests are not the same on every processor."""
    words = [word if not _is_hash(word.strip("(),;")) else "HASH" for word in line.split()]
    return " ".join(words)


def _is_hash(word: str) -> bool:
    return len(word) >= 12 and all(letter in "0123456789abcdef-" for letter in word)


CASES: dict[str, Case] = {
    "weights that are cut off": after(cut_off),
    "weights with one bit flipped": after(flip_bit),
    "no adapter, no snapshots": after(take_away),
    "the adapter of another run": after(swap("adapter")),
    "the ledger of another run": after(swap("ledger.sqlite")),
    "another base in the run's place": after(change_base),
    "a later format version": configured(format_version=99),
    "an earlier format version": configured(format_version=1),
    "another base's fingerprint": configured(base_fingerprint="0" * 16 + "-" + "0" * 32),
    "another rank in the config": configured(rank=5),
    "a rank of 0 in the config": configured(rank=0),
    "another seed in the config": configured(seed=7),
    "an unknown storage dtype": configured(storage_dtype="int4"),
    "a threshold of 3": configured(subject_threshold=3),
    "a target that the base has not": configured(target_modules=["model.layers.9.mlp.down_proj"]),
    "more subspaces in the config than in the file": configured(n_subspaces=9),
    "a tensor missing": tampered(remove("keys.lengths")),
    "a token beyond the vocabulary": tampered(lambda state: find(state, "keys.tokens").fill_(60_000)),
    "keys of other lengths": tampered(lambda state: find(state, "keys.lengths").add_(1)),
    "a key of negative length": tampered(lambda state: find(state, "keys.lengths").neg_()),
    "a key to no subspace": tampered(lambda state: find(state, "keys.subspaces").fill_(99)),
    "a key to a subspace below 0": tampered(lambda state: find(state, "keys.subspaces")[:1].fill_(-5)),
    "NaN in a subspace": tampered(
        lambda state: [value.fill_(float("nan")) for name, value in state.items() if name.endswith("up.0_scale")]
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_adapter(case: str, place: Place) -> None:
    check_case("adapter", CASES, case, place)
