from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from case_lightning.base import source
from case_lightning.base.source import resolve_source
from case_lightning.errors import BaseModelError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """What the hub answers: the one exception in the list, or nothing at all if it is empty."""
    answer: list[Exception | None] = []

    def ask(_self: HfApi, model: str, timeout: float) -> str:
        if answer and answer[0]:
            raise answer[0]
        return model

    monkeypatch.setattr(HfApi, "model_info", ask)
    return answer


def _error(kind: type[Exception]) -> Exception:
    return kind.__new__(kind)  # their constructors want a whole HTTP response


def test_the_embedded_name_is_a_cached_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "embedded_folder", lambda embedded: tmp_path / embedded.name)
    assert resolve_source("smollm2-135m") == str(tmp_path / "smollm2-135m")


@pytest.mark.parametrize("model", ["HuggingFaceTB/SmolLM2-135M-Instruct", "gpt2"])
def test_a_hub_id_is_itself_where_the_hub_has_it(hub: list[Exception | None], model: str) -> None:
    assert resolve_source(model) == model


def test_an_unreachable_hub_is_replaced_by_its_cache(
    hub: list[Exception | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.append(ConnectionError("no route to host\nretry later"))
    monkeypatch.setattr(source, "try_to_load_from_cache", lambda model, file: f"/cache/{model}/{file}")
    assert resolve_source("owner/name") == "/cache/owner/name"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_error(RepositoryNotFoundError), "the Hugging Face hub has no such model"),
        (_error(GatedRepoError), "terms must be accepted on the hub first, then `hf auth login`"),
        (
            ConnectionError("no route to host\nretry"),
            r"cannot be reached \(no route to host\) and its cache has no copy",
        ),
    ],
)
def test_a_hub_that_does_not_give_the_model_is_said_to(
    hub: list[Exception | None], answer: Exception, message: str
) -> None:
    hub.append(answer)
    with pytest.raises(BaseModelError, match=rf"no base model 'owner/name': .*{message}") as caught:
        resolve_source("owner/name")
    assert "'smollm2-135m'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["smollm-135m", "smollm2_135m", "SmolLM2-135M"])
def test_a_slip_of_the_embedded_name_is_corrected_without_asking_the_hub(
    hub: list[Exception | None], model: str
) -> None:
    hub.append(AssertionError("the hub was asked"))
    with pytest.raises(BaseModelError, match=r"it is not the embedded model's name; did you mean 'smollm2-135m'"):
        resolve_source(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "no base model '': there is no such folder"),
        ("{}/tiny-lama", r"there is no such folder; did you mean 'tiny-llama'\?"),
        ("{}/no/such/place", "there is no such folder; give the embedded model 'smollm2-135m'"),
        ("{}/tiny.guff", r"it is a file, but not a \.gguf file"),
        ("{}/absent.gguf", "there is no such file"),
        ("{}/tiny-llama", r"the folder has no config\.json \(it holds weights\.bin\)"),
        ("{}/adapter", "it holds an adapter, not a base model"),
    ],
)
def test_a_path_that_is_no_model_is_named_with_what_is_there(tmp_path: Path, model: str, message: str) -> None:
    for file in ("tiny-llama/weights.bin", "adapter/adapter_config.json", "adapter/config.json", "tiny.guff"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(BaseModelError, match=message):
        resolve_source(model.format(tmp_path))


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.gguf").touch()
    assert resolve_source("~/model.gguf") == str(tmp_path / "model.gguf")
