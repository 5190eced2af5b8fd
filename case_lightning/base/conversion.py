"""The embedded model as a safetensors folder beside its GGUF file.

Dequantising the GGUF file in transformers takes some seventeen seconds at every load, reading safetensors a fraction of
a second. So the first load converts once and keeps the folder. The weights read back are bit-identical, which is
checked before the folder is put in place. A manifest names what the folder was made from, and every file's size and
hash.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from case_lightning.base.checkpoint import read_model, read_tokenizer, silence
from case_lightning.base.embedded import (
    EmbeddedModel,
    fetch_embedded,
    has_size,
    hash_file,
    lock_cache,
    partial_folder,
)
from case_lightning.errors import BaseModelError

MANIFEST = "manifest.json"
FORMAT = 1  # raise it when the way of converting changes, and cached folders are made anew


def embedded_folder(embedded: EmbeddedModel) -> Path:
    """The folder of the embedded model in transformers' format, fetched and converted on first use.

    Args:
        embedded: The model wanted.

    Returns:
        A folder that `from_pretrained` reads.

    Raises:
        BaseModelError: The model cannot be fetched, or the cache cannot be written.
    """
    folder = embedded.folder / "converted"
    if not is_intact(folder, embedded):
        gguf = fetch_embedded(embedded)
        with lock_cache(embedded):
            if not is_intact(folder, embedded):  # another process may have converted it meanwhile
                _convert(embedded, gguf, folder)
    return folder


def is_intact(folder: Path, embedded: EmbeddedModel) -> bool:
    """Whether the folder was made from this GGUF file in this format and every file still has its size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        made_from = (manifest["format"], manifest["gguf_sha256"])
        sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    wanted = (FORMAT, embedded.gguf_sha256)
    return made_from == wanted and all(has_size(folder / name, size) for name, size in sizes.items())


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Hash of the weights alone, in name order: the same whatever library version wrote the files."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _convert(embedded: EmbeddedModel, gguf: Path, folder: Path) -> None:
    with partial_folder(embedded) as partial:
        made = partial / folder.name
        _write_manifest(made, embedded, _save(gguf, made))
        shutil.rmtree(folder, ignore_errors=True)
        made.replace(folder)


def _save(gguf: Path, folder: Path) -> str:
    """Write model and tokenizer, read the weights back, and return their hash."""
    model, tokenizer = read_model(str(gguf)), read_tokenizer(str(gguf))
    with silence():
        model.save_pretrained(folder, max_shard_size="4GB")
        tokenizer.save_pretrained(folder)
    written = load_file(folder / "model.safetensors")
    in_memory = {name: weight for name, weight in model.state_dict().items() if name in written}
    digest = hash_weights(written)
    if digest != hash_weights(in_memory):
        raise BaseModelError(f"the weights written to {folder} differ from those in {gguf}; check the disk")
    return digest


def _write_manifest(folder: Path, embedded: EmbeddedModel, digest: str) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "gguf_sha256": embedded.gguf_sha256, "weights_sha256": digest, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
