"""The PEFT tuner: injects the layer, routes each row once, and checks that an adapter is on its own base model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from case_lightning.base import find_architecture, fingerprint
from case_lightning.errors import BaseModelError
from case_lightning.subspace.config import CaseConfig
from case_lightning.subspace.layer import CaseLayer
from case_lightning.subspace.router import Router, TokenSpace

HELD_ROUTES = "_case_routes"  # attribute of a key-value cache: the routes of the rows it was filled for


class CaseModel(BaseTuner):
    """A causal language model with subspaces on one MLP down-projection and a router before its first layer.

    Routes are decided when a prompt is first seen and held, with its key-value cache, until its answer ends.

    Args:
        model: The base model.
        config: The adapter's configuration.
        adapter_name: Its name.
    """

    prefix: str = "case_"
    tuner_layer_cls = CaseLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  PEFT's name; targets are found by structure
    _router: Router | None = None
    _forced: Tensor | None = None

    def _prepare_adapter_config(self, peft_config: CaseConfig, model_config: dict[str, Any]) -> CaseConfig:
        if peft_config.target_modules is None:
            architecture = find_architecture(self.model)
            layer = architecture.default_layer if peft_config.layer is None else peft_config.layer
            peft_config.target_modules = [architecture.down_projections[architecture.check_layer(layer)]]
        return peft_config

    def _pre_injection_hook(self, model: nn.Module, config: CaseConfig, adapter_name: str) -> None:
        here = fingerprint(model) if not any(isinstance(m, CaseLayer) for m in model.modules()) else None
        if config.base_fingerprint is None:
            config.base_fingerprint = here
        if here not in (None, config.base_fingerprint):
            raise BaseModelError(
                f"this adapter was made for a base model with fingerprint {config.base_fingerprint}, not for this one "
                f"({here}); load it on {config.base_model_name_or_path or 'the model that was edited'}, in the same dtype"
            )

    def _post_injection_hook(self, model: nn.Module, config: CaseConfig, adapter_name: str) -> None:
        if not getattr(model, "_case_hooked", False):
            model._case_hooked = True  # type: ignore[assignment]
            model.register_forward_pre_hook(self._decide_routes, with_kwargs=True)
            model.register_forward_hook(self._hold_routes, with_kwargs=True)

    def _create_and_replace(
        self,
        case_config: CaseConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, CaseLayer):
            target.update_layer(adapter_name, case_config)
        else:
            self._replace_module(parent, target_name, CaseLayer(target, adapter_name, case_config), target)

    @property
    def case_layer(self) -> CaseLayer:
        """The edited layer."""
        return next(module for module in self.model.modules() if isinstance(module, CaseLayer))

    @property
    def router(self) -> Router:
        """The router of the active adapter."""
        keys = self.case_layer.adapter.keys
        if self._router is None or self._router.keys is not keys:
            config = self.peft_config[self.active_adapters[0]]
            space = TokenSpace(self.model.get_input_embeddings().weight.detach(), keys.calibration)
            self._router = Router(space, keys, config.subject_threshold, config.relation_threshold)
        return self._router

    @contextmanager
    def forced_routes(self, routes: Tensor) -> Iterator[None]:
        """Send the rows of every forward inside through given routes, whatever the router would say.

        Args:
            routes: Subspace of each row or −1, `(batch,)`.
        """
        before, self._forced = self._forced, routes
        try:
            yield
        finally:
            self._forced = before

    def _decide_routes(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        layer = self.case_layer
        layer.routes = None
        if layer.disable_adapters or not layer.active_adapters:
            return
        if self._forced is not None:
            layer.routes = self._forced
            return
        tokens = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if tokens is None:
            return
        if cache is not None and cache.get_seq_length() > 0:
            layer.routes = _repeat(getattr(cache, HELD_ROUTES, None), len(tokens))
            return
        mask = kwargs.get("attention_mask")
        layer.routes = self._route(tokens, mask if isinstance(mask, Tensor) and mask.dim() == 2 else None)
        if cache is not None:
            setattr(cache, HELD_ROUTES, layer.routes)

    def _route(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        if not len(self.case_layer.adapter.keys):
            return None
        return self.router.route(tokens, mask[:, -tokens.shape[1] :] if mask is not None else None)

    def _hold_routes(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        routes = self.case_layer.routes
        if cache is not None and routes is not None and not hasattr(cache, HELD_ROUTES):
            setattr(cache, HELD_ROUTES, routes)
        self.case_layer.routes = None

    @classmethod
    def _get_adapter_state_dict(cls, model: nn.Module, config: CaseConfig, *args: Any, **kwargs: Any) -> Any:
        state = super()._get_adapter_state_dict(model, config, *args, **kwargs)
        dtype = getattr(torch, config.storage_dtype)
        return {name: value.to(dtype) if ".subspaces." in name and value.is_floating_point() else value
                for name, value in state.items()}


def _repeat(routes: Tensor | None, rows: int) -> Tensor | None:
    """The held routes for a cache whose rows were repeated since, as for several beams or samples of each prompt."""
    if routes is None or len(routes) == rows:
        return routes
    return routes.repeat_interleave(rows // len(routes)) if rows % len(routes) == 0 else None
