"""A state of the edited model that answers are given from: the adapter after some number of edits."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from case_lightning.editing.store import ADAPTER, digest_of
from case_lightning.errors import RunError
from case_lightning.subspace import UNEDITED, CaseAdapter, CaseConfig, CaseModel, Router

IN_FILE = "case_adapter.default."  # what precedes a tensor's own name in an adapter's file


@dataclass(frozen=True)
class State:
    """One state; it never changes.

    Attributes:
        adapter: Its subspaces and router keys, on the base model's device.
        router: Its router.
        digest: SHA-256 of the adapter's file.
        n_edits: How many edits hold in it.
    """

    adapter: CaseAdapter
    router: Router
    digest: str
    n_edits: int

    @property
    def fingerprint(self) -> str:
        """What an answer names as its `system_fingerprint`."""
        return f"case-{self.digest[:12]}-{self.n_edits}"

    def route(self, prompt: Tensor) -> tuple[int, int]:
        """The subspace that a prompt of token ids `(length,)` goes through, or `UNEDITED`, and from where on."""
        if not len(self.adapter.keys):
            return UNEDITED, 0
        subspaces, starts = self.router.locate(prompt[None])
        return int(subspaces), int(starts)


def load_state(model: PeftModel, folder: Path, n_edits: int, before: State | None = None) -> State:
    """Load a state beside those that answer now, and do all that its first answer would otherwise wait for.

    The model is only read, so it may answer meanwhile.

    Args:
        model: The base model with an adapter.
        folder: The adapter's folder.
        n_edits: How many edits hold in it.
        before: A state of the same run: what its router has computed is used again.

    Raises:
        RunError: The adapter cannot be read.
    """
    tuner = cast(CaseModel, model.base_model)
    layer = tuner.case_layer
    digest = digest_of(folder)
    if digest is None:
        raise RunError(f"{folder / ADAPTER} is missing; restore it from a copy")
    config = CaseConfig.from_pretrained(str(folder))
    adapter = CaseAdapter(config, layer.in_features, layer.out_features)
    adapter.load_state_dict({name.partition(IN_FILE)[2]: value for name, value in load_file(folder / ADAPTER).items()})
    adapter.to(model.device).requires_grad_(False)
    for index in range(len(adapter.subspaces)):
        adapter.subspaces.basis(index)
    router = tuner.build_router(config, adapter.keys, before.router if before else None)
    if len(adapter.keys):
        router.warm_up()
    return State(adapter, router, digest, n_edits)
