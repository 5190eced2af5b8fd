"""What a model name stands for: the embedded model, a GGUF file, a folder, or an id on the Hugging Face hub.

The hub is asked once, with a time limit, before anything is read from it: transformers would retry an unreachable hub
for most of a minute and then name no cause.
"""

import difflib
import os
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

from case_lightning.base.conversion import embedded_folder
from case_lightning.base.embedded import DEFAULT_MODEL, EMBEDDED_MODELS
from case_lightning.errors import BaseModelError

HUB_SECONDS = 10.0
ACCEPTED = (
    f"give the embedded model {DEFAULT_MODEL!r}, a Hugging Face id such as 'HuggingFaceTB/SmolLM2-135M-Instruct', "
    f"a folder with config.json, or a .gguf file"
)


def resolve_source(model: str) -> str:
    """Find out what a model name stands for, fetching the embedded model on first use.

    Args:
        model: The embedded model's name, a Hugging Face id, a folder, or a `.gguf` file.

    Returns:
        A folder, a `.gguf` file, or a hub id that the hub has.

    Raises:
        BaseModelError: It is none of these, or cannot be reached.
    """
    if model in EMBEDDED_MODELS:
        return str(embedded_folder(EMBEDDED_MODELS[model]))
    path = Path(model).expanduser()
    if model and path.is_dir():
        return _check_folder(path)
    if path.suffix == ".gguf":
        return _check_file(path, model)
    if path.is_file():
        raise _unknown(model, "it is a file, but not a .gguf file")
    if not model or _is_path(model):
        raise _unknown(model, "there is no such folder")
    return _ask_hub(model)


def _is_path(model: str) -> bool:
    return model.startswith((".", "~", os.sep)) or "\\" in model or model.count("/") > 1


def _check_folder(path: Path) -> str:
    if (path / "adapter_config.json").is_file():
        raise _unknown(str(path), "it holds an adapter, not a base model")
    if not (path / "config.json").is_file():
        files = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
        raise _unknown(str(path), f"the folder has no config.json (it holds {files})")
    return str(path)


def _check_file(path: Path, model: str) -> str:
    if not path.is_file():
        raise _unknown(model, "there is no such file")
    return str(path)


def _ask_hub(model: str) -> str:
    near = difflib.get_close_matches(model.lower(), EMBEDDED_MODELS, n=1)
    if near and "/" not in model:
        raise _unknown(model, "it is not the embedded model's name")
    try:
        HfApi().model_info(model, timeout=HUB_SECONDS)
    except GatedRepoError as error:
        raise _unknown(model, "its terms must be accepted on the hub first, then `hf auth login`") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _unknown(model, "the Hugging Face hub has no such model") from error
    except Exception as error:  # the hub client's transport errors are its HTTP library's, and that changes
        return _read_offline(model, error)
    return model


def _read_offline(model: str, error: Exception) -> str:
    cached = try_to_load_from_cache(model, "config.json")
    if isinstance(cached, str):  # as a folder: given the id, transformers would ask the hub again
        return str(Path(cached).parent)
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    raise _unknown(model, f"the Hugging Face hub cannot be reached ({reason}) and its cache has no copy") from error


def _unknown(model: str, reason: str) -> BaseModelError:
    near = difflib.get_close_matches(Path(model).name.lower(), _list_neighbours(model), n=1)
    suggestion = f"; did you mean {near[0]!r}?" if near else ""
    return BaseModelError(f"no base model {model!r}: {reason}{suggestion}; {ACCEPTED}")


def _list_neighbours(model: str) -> list[str]:
    """Names that `model` may be a slip of: the embedded models, and what lies beside a path."""
    folder = Path(model).expanduser().parent
    beside = [entry.name for entry in folder.iterdir()] if _is_path(model) and folder.is_dir() else []
    return [*EMBEDDED_MODELS, *beside]
