"""The method's callbacks with what they can know of an `EditModule`: shorter ways to the same figures."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from case_lightning.callbacks import ActivationMemory, KeyProtection, SensitiveNeuronMask
from case_lightning.editing.module import EditModule
from case_lightning.method.sensitivity import keep_most_sensitive, keep_random, measure_fisher, measure_magnitude


class EditNeuronMask(SensitiveNeuronMask):
    """KNT on the subspaces being trained.

    Where `A` is tuned, a neuron is an intermediate neuron of the MLP, so a column of `A`. Where it is fixed, it is a
    feature that the subspace reads, so a column of `B`. Its Fisher information comes from the factors measured for the
    allocation, over the new edits of its subspace.

    Args:
        kind: `entropy`, or what to compare it with: `top_k`, `random` or `gradient`.
        size: How many neurons `top_k` keeps.
        seed: Seed of `random`.
    """

    def __init__(self, kind: str = "entropy", size: int = 256, seed: int = 0) -> None:
        """Choose the rule and the measure."""
        self._generator = torch.Generator().manual_seed(seed)
        drawn = partial(keep_random, generator=self._generator)
        rules = {"top_k": partial(keep_most_sensitive, count=size), "random": drawn}
        super().__init__(rule=rules.get(kind, keep_most_sensitive))
        self.sensitivity = measure_magnitude if kind == "gradient" else measure_fisher

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._generator.set_state(state_dict["generator"])

    @override
    def measure(self, pl_module: LightningModule, batch: object) -> dict[str, Tensor]:
        assert isinstance(pl_module, EditModule)  # noqa: S101  for the type checker
        subspaces = pl_module.layer.adapter.subspaces
        part, width = ("down", subspaces.d_in) if subspaces.tune_input else ("up", subspaces.rank)
        self.neurons = {f"active.{index}.{part}": 1 for index in pl_module.active}
        found = {name: torch.zeros(width, device=pl_module.device) for name in self.neurons}
        for edit, (delta, inputs) in zip(pl_module.new, pl_module.gradients, strict=True):
            read = inputs if subspaces.tune_input else inputs @ subspaces.basis(edit.subspace).T
            found[f"active.{edit.subspace}.{part}"] += self.sensitivity(delta, read).to(pl_module.device)
        return found


class EditActivationMemory(ActivationMemory):
    """Memory of the subspaces: the down-projection's input `x` at an edit's last prompt token, and `ΔW x`."""

    @override
    def capture(self, pl_module: LightningModule) -> dict[str, Tensor]:
        assert isinstance(pl_module, EditModule)  # noqa: S101  for the type checker
        asked = [edit.text.encoded for edit in pl_module.new]
        pairs = zip(asked, pl_module.gradients, strict=True)
        inputs = [x[one.n_prompt - 1 - one.start] for one, (_, x) in pairs]
        routes = torch.tensor([edit.subspace for edit in pl_module.new], dtype=torch.int16)
        return {"inputs": torch.stack(inputs), "subspaces": routes}

    @override
    def choose(self, pl_module: LightningModule) -> dict[str, Tensor]:
        assert isinstance(pl_module, EditModule)  # noqa: S101  for the type checker
        trained = torch.tensor([int(index) for index in pl_module.active])
        chosen = torch.isin(self.rows["subspaces"].long(), trained.to(self.rows["subspaces"].device))
        return {name: value[chosen] for name, value in self.rows.items()}

    @override
    def recompute(self, pl_module: LightningModule, rows: dict[str, Tensor]) -> Tensor:
        assert isinstance(pl_module, EditModule)  # noqa: S101  for the type checker
        subspaces = pl_module.layer.adapter.subspaces
        inputs, routes = rows["inputs"].to(pl_module.device), rows["subspaces"].to(pl_module.device).long()
        zero = torch.zeros(len(inputs), 1, subspaces.d_out, device=inputs.device)
        answers: Tensor = subspaces(zero, inputs[:, None], routes)
        return answers[:, 0]


class EditKeyProtection(KeyProtection):
    """Protection of what subspaces read of past edits: the features `A x`, where `A` is fixed.

    They are not kept with a run: an editor that takes past edits up reads them again.

    Args:
        strength: How much past answers weigh against a change of `B`.
    """

    def __init__(self, strength: float) -> None:
        """Name no module: features come from the editor, edit by edit."""
        super().__init__(strength=strength)

    @override
    def weights(self, pl_module: LightningModule) -> Mapping[str, Tensor]:
        assert isinstance(pl_module, EditModule)  # noqa: S101  for the type checker
        subspaces = pl_module.layer.adapter.subspaces
        return {name_weight(int(index)): subspaces.up[int(index)] for index in pl_module.active}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {}


def name_weight(subspace: int) -> str:
    """Name of the tuned output side `B` of a subspace among the parameters of an `EditModule`."""
    return f"active.{subspace}.up"
