import dataclasses
import logging
import shutil
from pathlib import Path
from unittest.mock import Mock

import gguf
import huggingface_hub
import pytest
import torch
from transformers import BertConfig, LlamaConfig, T5Config, T5ForConditionalGeneration
from transformers.utils import logging as transformers_logging

from case_lightning.base import DEFAULT_MODEL, fingerprint, load_base, source
from case_lightning.errors import BaseModelError
from tests.base.tiny_models import SIZES, build_model, build_tokenizer, save_folder, write_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("base") / "tiny.Q4_1.gguf")


def test_a_folder_is_loaded_frozen_with_all_that_editing_needs(folder: Path) -> None:
    base = load_base(str(folder), device="cpu")
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.architecture.down_projections[2] == "model.layers.2.mlp.down_proj"
    assert base.fingerprint == fingerprint(build_model(LlamaConfig(**SIZES)))
    assert base.name == base.model.name_or_path == str(folder)
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.name = "other"  # type: ignore[misc]


def test_loading_twice_gives_the_same_logits(folder: Path) -> None:
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        first, second = (load_base(str(folder), device="cpu").model(ids).logits for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_the_one_asked_for(folder: Path, dtype: str) -> None:
    assert load_base(str(folder), dtype=dtype, device="cpu").model.dtype == getattr(torch, dtype)


def test_dtype_auto_is_the_checkpoints_own(tmp_path: Path) -> None:
    build_model(LlamaConfig(**SIZES)).to(torch.bfloat16).save_pretrained(tmp_path)
    build_tokenizer(eos_token="</s>").save_pretrained(tmp_path)
    assert load_base(str(tmp_path), device="cpu").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("special", "pad"),
    [({"eos_token": "</s>"}, "</s>"), ({"eos_token": "</s>", "pad_token": "<pad>", "padding_side": "left"}, "<pad>")],
)
def test_the_tokenizer_pads_on_the_right(tmp_path: Path, special: dict[str, str], pad: str) -> None:
    base = load_base(str(save_folder(tmp_path, LlamaConfig(**SIZES | {"pad_token_id": None}), **special)), device="cpu")
    assert base.tokenizer.pad_token == pad
    batch = base.tokenizer(["w4 w5 w6", "w7"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1], [1, 0, 0]]
    assert base.model.generation_config.pad_token_id == base.tokenizer.pad_token_id


def test_a_gguf_file_becomes_a_plain_model(gguf_file: Path, tmp_path: Path) -> None:
    base = load_base(str(gguf_file), device="cpu")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}["blk.0.ffn_down.weight"]
    expected = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy())
    weight = base.model.get_submodule(base.architecture.down_projections[0]).weight
    assert type(weight) is torch.nn.Parameter
    assert torch.equal(weight, expected)
    assert base.tokenizer.decode(base.tokenizer("naïve  café\n").input_ids) == "naïve  café\n"
    base.model.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_the_embedded_models_cache_path_is_kept_out_of_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "embedded_folder", lambda _: folder)
    base = load_base(DEFAULT_MODEL, device="cpu")
    assert base.name == base.model.name_or_path == DEFAULT_MODEL


def test_on_the_meta_device_there_is_structure_only(folder: Path) -> None:
    base = load_base(str(folder), device="meta")
    assert base.model.device == torch.device("meta")
    assert base.fingerprint.endswith("-meta")
    assert base.architecture.d_in == 48


def test_an_unreachable_hubs_cache_is_read_without_asking_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hub cache laid out by hand."""
    repository = tmp_path / "models--owner--name"
    shutil.copytree(folder, repository / "snapshots" / "revision")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("revision")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", Mock(side_effect=ConnectionError("no route")))
    monkeypatch.setattr(huggingface_hub.file_download, "get_hf_file_metadata", Mock(side_effect=OSError("asked")))
    base = load_base("owner/name", device="cpu")
    assert base.fingerprint == load_base(str(folder), device="cpu").fingerprint
    assert base.model.name_or_path == "owner/name"


def test_loading_is_silent_and_leaves_logging_as_it_was(
    folder: Path, gguf_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard = Mock(level=logging.NOTSET)
    transformers_logging.add_handler(heard)
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity_info()
    try:
        load_base(str(folder), device="cpu")
        load_base(str(gguf_file), device="cpu")
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()
        transformers_logging.remove_handler(heard)
    heard.handle.assert_not_called()
    assert capfd.readouterr() == ("", "")


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(BaseModelError, match="unknown dtype 'fp8'; give one of auto, float32, bfloat16, float16"):
        load_base("smollm2-135m", dtype="fp8")


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "unknown device 'gpu'"), ("cuda:99", "device 'cuda:99' is not there")]
)
def test_an_unknown_device_is_named(device: str, message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        load_base("smollm2-135m", device=device)


def _save_encoder(folder: Path) -> Path:
    return save_folder(folder, BertConfig(**SIZES))


def _save_encoder_decoder(folder: Path) -> Path:
    T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_ff=16, num_layers=1)).save_pretrained(folder)
    return folder


def _save_incomplete(folder: Path) -> Path:
    save_folder(folder, LlamaConfig(**SIZES | {"num_hidden_layers": 2}))
    LlamaConfig(**SIZES).save_pretrained(folder)
    return folder


def _save_truncated(folder: Path) -> Path:
    weights = save_folder(folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


def _save_without_weights(folder: Path) -> Path:
    (save_folder(folder) / "model.safetensors").unlink()
    return folder


def _save_without_end(folder: Path) -> Path:
    return save_folder(folder, bos_token="<s>")


def _save_garbage(folder: Path) -> Path:
    folder.mkdir()
    (folder / "garbage.gguf").write_bytes(b"not a model")
    return folder / "garbage.gguf"


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (_save_encoder, "BertLMHeadModel cannot be edited: its attention looks ahead"),
        (_save_encoder_decoder, "is a 't5' model, not a causal"),
        (_save_incomplete, r"lacks 9 weights of LlamaForCausalLM, the first is model\.layers\.2\."),
        (_save_truncated, "cannot be read: "),
        (_save_without_weights, "cannot be read: .*model.safetensors"),
        (_save_without_end, "neither a pad nor an end-of-sequence token"),
        (_save_garbage, "cannot be read: "),
    ],
)
def test_a_bad_checkpoint_is_one_line_that_names_it(tmp_path: Path, save: object, message: str) -> None:
    place = save(tmp_path / "bad")  # type: ignore[operator]
    with pytest.raises(BaseModelError, match=message) as caught:
        load_base(str(place), device="cpu")
    assert "\n" not in str(caught.value)
