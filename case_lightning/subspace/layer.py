"""The layer that stands in for the edited down-projection."""

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from typing_extensions import override

from case_lightning.errors import ConfigError
from case_lightning.subspace.config import CaseConfig
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.memory import MemoryStore
from case_lightning.subspace.subspaces import Subspaces


class CaseAdapter(nn.Module):
    """All that is stored of the edits: subspaces, router keys and activation memory.

    Args:
        config: What to build; its sizes make room for a saved adapter.
        d_in: Input width of the edited projection.
        d_out: Its output width.
    """

    def __init__(self, config: CaseConfig, d_in: int, d_out: int) -> None:
        """Build what the config's sizes say."""
        super().__init__()
        self.subspaces = Subspaces(
            d_in, d_out, config.rank, config.scale, config.seed, config.n_directions, config.tune_input
        )
        self.keys = RouterKeys(config.n_keys, config.n_key_tokens, config.n_calibration)
        self.memory = MemoryStore(d_in, d_out, config.n_memories)
        for _ in range(config.n_subspaces):
            self.subspaces.open()

    def record_sizes(self, config: CaseConfig) -> None:
        """Write the sizes of what has grown into the config, so that loading makes room for it."""
        config.n_subspaces = len(self.subspaces)
        config.n_keys = len(self.keys)
        config.n_key_tokens = len(self.keys.tokens)
        config.n_calibration = len(self.keys.calibration)
        config.n_memories = len(self.memory)

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        own = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if own:  # else another adapter is read
            self._check(own)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check(self, state: dict[str, Tensor]) -> None:
        """Refuse a file that lacks something, or whose parts do not belong together."""
        if absent := sorted(self.state_dict().keys() - state.keys()):
            raise ConfigError(f"{absent[0]} is not in the adapter's file; restore the file from a copy")
        for name, value in state.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise ConfigError(f"{name}: expected finite numbers, found others; restore the file from a copy")
        lengths, subspaces = (state[f"keys.{name}"].long() for name in ("lengths", "subspaces"))
        if lengths.sum() != len(state["keys.tokens"]) or (lengths < 1).any():
            raise ConfigError("keys.lengths: expected those of the router keys; restore the file from a copy")
        wrong = subspaces[(subspaces < 0) | (subspaces >= len(self.subspaces))]
        if len(wrong):
            raise ConfigError(
                f"keys.subspaces: expected 0 to {len(self.subspaces) - 1}, found {wrong[0]}; restore the file from a "
                f"copy"
            )


class CaseLayer(nn.Module, BaseTunerLayer):
    """A frozen down-projection plus the update of each row's route.

    Args:
        base_layer: The projection, `nn.Linear` or GPT-2's `Conv1D`.
        adapter_name: Name of the first adapter.
        config: Its configuration.
    """

    adapter_layer_names = ("case_adapter",)

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: CaseConfig) -> None:
        """Wrap the projection and add the first adapter."""
        super().__init__()
        self.base_layer = base_layer
        if isinstance(base_layer, Conv1D):
            self.in_features, self.out_features = int(base_layer.nx), int(base_layer.nf)
        else:
            self.in_features, self.out_features = int(base_layer.in_features), int(base_layer.out_features)  # type: ignore[arg-type]
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self.case_adapter = nn.ModuleDict()
        self.routes: Tensor | None = None  # set by the model before its forward, `(batch,)`
        self.starts: Tensor | None = None  # likewise: from which position on; `None` stands for the first
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: CaseConfig) -> None:
        """Add an adapter."""
        self.case_adapter[adapter_name] = CaseAdapter(config, self.in_features, self.out_features)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def adapter(self) -> CaseAdapter:
        """The active adapter."""
        return self.get_adapter(self.active_adapters[0])

    def get_adapter(self, name: str) -> CaseAdapter:
        """An adapter by its name."""
        return self.case_adapter[name]  # type: ignore[return-value]

    @override
    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's own would also cast to the base's dtype; subspaces are float32 on any base
        adapter = self.get_adapter(adapter_name)
        device = device or next(self.get_base_layer().parameters()).device
        if not any(parameter.is_meta for parameter in adapter.parameters()):  # else its values are still to come
            adapter.to(device)

    @override
    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The frozen projection of `x`, `(batch, seq, d_in)` or flattened, plus each row's update where it has one."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.routes is None or self.disable_adapters or not self.active_adapters:
            return result
        rows = (len(self.routes), -1)  # some models flatten batch and sequence before the MLP
        edited: Tensor = self.adapter.subspaces(
            result.reshape(*rows, result.shape[-1]), x.reshape(*rows, x.shape[-1]), self.routes, self.starts
        )
        return edited.reshape(result.shape)
