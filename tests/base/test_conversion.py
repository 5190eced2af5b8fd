import hashlib
import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file

from case_lightning.base import conversion
from case_lightning.base.checkpoint import read_model, read_tokenizer
from case_lightning.base.conversion import embedded_folder, hash_weights
from case_lightning.base.embedded import EmbeddedModel
from case_lightning.errors import BaseModelError
from tests.base.tiny_models import write_gguf


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    """An embedded model whose GGUF file is in the cache already."""
    monkeypatch.setenv("CASE_LIGHTNING_CACHE", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    path = write_gguf(tmp_path / "tiny" / "tiny.gguf")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return EmbeddedModel("tiny", "tiny==1.0", "0" * 64, "tiny/tiny.gguf", digest, path.stat().st_size)


def test_the_folder_is_bit_identical_to_the_gguf_file(tiny: EmbeddedModel) -> None:
    folder = embedded_folder(tiny)
    source, converted = read_model(str(tiny.gguf_path)), read_model(str(folder))
    assert source.state_dict().keys() == converted.state_dict().keys()
    for name, weight in source.state_dict().items():
        assert torch.equal(weight, converted.state_dict()[name]), name
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny.gguf_path).tensors}["blk.0.ffn_down.weight"]
    expected = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy())
    assert torch.equal(converted.model.layers[0].mlp.down_proj.weight, expected)


def test_the_folders_tokenizer_is_the_gguf_files(tiny: EmbeddedModel) -> None:
    source, converted = read_tokenizer(str(tiny.gguf_path)), read_tokenizer(str(embedded_folder(tiny)))
    text = "ab naïve <|im_end|>\n"
    assert converted(text).input_ids == source(text).input_ids
    assert converted.special_tokens_map == source.special_tokens_map


@pytest.mark.parametrize(("rule", "pieces"), [("smollm", ["  ", "4", "2"]), ("gpt-2", [" ", " ", "4", "2"])])
def test_digits_are_set_apart_where_the_gguf_file_says_so(tmp_path: Path, rule: str, pieces: list[str]) -> None:
    """The tiny vocabulary merges two blanks; plain GPT-2 gives the second blank to the number before it can."""
    tokenizer = read_tokenizer(str(write_gguf(tmp_path / "tiny.gguf", rule)))
    assert [tokenizer.decode(token) for token in tokenizer("  42").input_ids] == pieces


def test_the_second_load_does_not_read_the_gguf_file(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = embedded_folder(tiny)
    tiny.gguf_path.unlink()
    monkeypatch.setattr(conversion, "read_model", pytest.fail)
    assert embedded_folder(tiny) == folder


def _truncate(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(100)


def _remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def _make_manifest_old(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))


@pytest.mark.parametrize("damage", [_truncate, _remove_tokenizer, _break_manifest, _make_manifest_old])
def test_a_damaged_or_outdated_folder_is_made_anew(tiny: EmbeddedModel, damage: object) -> None:
    folder = embedded_folder(tiny)
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    damage(folder)  # type: ignore[operator]
    embedded_folder(tiny)
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    assert sorted(entry.name for entry in tiny.folder.iterdir()) == ["converted", "lock", "tiny.gguf"]


def test_weights_that_do_not_survive_the_disk_are_refused(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_altered(path: Path) -> dict[str, torch.Tensor]:
        weights = load_file(path)
        weights["model.norm.weight"][0] += 1e-6
        return weights

    monkeypatch.setattr(conversion, "load_file", load_altered)
    with pytest.raises(BaseModelError, match="differ from those in"):
        embedded_folder(tiny)
    assert not (tiny.folder / "converted").exists()


def test_the_manifest_names_source_weights_and_files(tiny: EmbeddedModel) -> None:
    folder = embedded_folder(tiny)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["gguf_sha256"] == tiny.gguf_sha256
    assert manifest["weights_sha256"] == hash_weights(load_file(folder / "model.safetensors"))
    assert manifest["files"].keys() == {entry.name for entry in folder.iterdir()} - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_the_weights_hash_sees_name_shape_dtype_and_every_bit_but_not_the_order() -> None:
    one, two = torch.arange(4.0), torch.zeros(2)
    reference = hash_weights({"a": one, "b": two})
    assert hash_weights({"b": two, "a": one}) == reference
    others = [
        {"a": one, "c": two},
        {"a": one.reshape(2, 2), "b": two},
        {"a": one, "b": two.double()},
        {"a": one.nextafter(torch.ones(4)), "b": two},
    ]
    assert len({reference, *map(hash_weights, others)}) == 5
