"""The PEFT tuner: injects the layer, routes each row once, and checks that an adapter is on its own base model."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from typing_extensions import override

from case_lightning.base import find_architecture, fingerprint
from case_lightning.errors import BaseModelError, ConfigError
from case_lightning.subspace.config import CaseConfig
from case_lightning.subspace.keys import encode_tokens
from case_lightning.subspace.layer import CaseLayer
from case_lightning.subspace.router import Router, TokenSpace
from case_lightning.subspace.subspaces import encode_parameters

HELD_ROUTES = "_case_routes"  # attribute of a key-value cache: the routes of the rows it was filled for
HOOKS = "_case_hooks"  # attribute of a base model: the handles of the hooks that route its rows


class CaseModel(BaseTuner):
    """A causal language model with subspaces on one MLP down-projection and a router before its first layer.

    Routes are decided when a prompt is first seen and held, through a call of `generate` and with a key-value cache,
    until its answer ends.

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
    _generating: bool = False
    _first_routes: tuple[Tensor | None] | None = None  # of the generation under way, once they are decided

    @property
    def case_layer(self) -> CaseLayer:
        """The layer that the active adapter edits."""
        return self._find_layers(self.model, self.active_adapters)[0]

    @property
    def router(self) -> Router:
        """The router of the active adapter."""
        keys = self.case_layer.adapter.keys
        if (
            self._router is None
            or self._router.keys is not keys
            or self._router.space.calibration is not keys.calibration
        ):
            config = self.peft_config[self.active_adapters[0]]
            assert isinstance(config, CaseConfig)  # noqa: S101  for the type checker
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

    @override
    def unload(self) -> nn.Module:
        self._unhook(self.model)
        return super().unload()

    @override
    def _prepare_adapter_config(  # type: ignore[override]  # PEFT hands over the tuner's own config
        self, peft_config: CaseConfig, model_config: dict[str, Any]
    ) -> CaseConfig:
        self._check_base(peft_config)
        if peft_config.target_modules is None:
            architecture = find_architecture(self.model)
            layer = architecture.default_layer if peft_config.layer is None else peft_config.layer
            peft_config.target_modules = [architecture.down_projections[architecture.check_layer(layer)]]
        return peft_config

    def _check_base(self, config: CaseConfig) -> None:
        """Note what base the adapter is for, or refuse another one."""
        others = [other for other in self.peft_config.values() if other is not config]
        # adapters rename parameters: with one on the model, its fingerprint is the one noted then
        here = getattr(others[0], "base_fingerprint", None) if others else fingerprint(self.model)
        if config.base_fingerprint is None:
            config.base_fingerprint = here
        if here not in (None, config.base_fingerprint):
            raise BaseModelError(
                f"this adapter was made for a base model with fingerprint {config.base_fingerprint}, not for this one "
                f"({here}); load it on {config.base_model_name_or_path or 'the model that was edited'}, "
                f"in the same dtype"
            )

    @override
    def _post_injection_hook(  # type: ignore[override]
        self, model: nn.Module, config: CaseConfig, adapter_name: str
    ) -> None:
        self._unhook(model)  # those of a tuner that was on it before
        before = model.register_forward_pre_hook(self._decide_routes, with_kwargs=True)
        after = model.register_forward_hook(self._hold_routes, with_kwargs=True)
        setattr(model, HOOKS, [before, after])
        if hasattr(model, "generate"):
            model.generate = self._generate  # type: ignore[assignment]

    @staticmethod
    def _unhook(model: nn.Module) -> None:
        for handle in vars(model).pop(HOOKS, ()):
            handle.remove()
        vars(model).pop("generate", None)

    @override
    def _create_and_replace(  # type: ignore[override]
        self,
        case_config: CaseConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if self._find_layers(self.model, [adapter_name]):
            raise ConfigError(
                f"target_modules {case_config.target_modules!r}: expected the dotted name of one module, found "
                f"several, the second {current_key}; give its full name, or `layer` instead"
            )
        if isinstance(target, CaseLayer):
            target.update_layer(adapter_name, case_config)
        else:
            self._replace_module(parent, target_name, CaseLayer(target, adapter_name, case_config), target)

    @staticmethod
    def _find_layers(model: nn.Module, adapters: Sequence[str]) -> list[CaseLayer]:
        """The layers that hold one of the adapters."""
        layers = [module for module in model.modules() if isinstance(module, CaseLayer)]
        return [layer for layer in layers if any(name in layer.case_adapter for name in adapters)]

    def _generate(self, *args: object, **kwargs: object) -> object:
        """The base model's `generate`, in which one decision holds even where no key-value cache carries it."""
        self._generating, self._first_routes = True, None
        try:
            return type(self.model).generate(self.model, *args, **kwargs)
        finally:
            self._generating, self._first_routes = False, None

    def _decide_routes(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
        inputs |= inputs.pop("kwargs", {})
        cache = inputs.get("past_key_values")
        starts = cache is None or cache.get_seq_length() == 0
        layer = self.case_layer
        layer.routes = None
        if not layer.disable_adapters:
            layer.routes = self._choose_routes(inputs, None if starts else cache)
        if cache is not None and starts:
            setattr(cache, HELD_ROUTES, layer.routes)

    def _choose_routes(self, inputs: dict[str, Any], filled: object | None) -> Tensor | None:
        """Routes from the first that applies: forced ones, those held, the router's."""
        if self._forced is not None:
            return self._forced
        tokens = inputs.get("input_ids")
        if filled is not None:
            return _repeat(getattr(filled, HELD_ROUTES, None), tokens)
        if self._first_routes is not None:
            return _repeat(self._first_routes[0], tokens)
        routes = None
        if tokens is not None and len(self.case_layer.adapter.keys):
            routes = self.router.route(tokens, _find_mask(inputs.get("attention_mask"), tokens))
        if self._generating:
            self._first_routes = (routes,)
        return routes

    def _hold_routes(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        layer = self.case_layer
        cache = getattr(output, "past_key_values", None)
        if cache is not None and not hasattr(cache, HELD_ROUTES):  # made by the model itself
            setattr(cache, HELD_ROUTES, layer.routes)
        layer.routes = None

    @classmethod
    @override
    def _get_adapter_state_dict(  # type: ignore[override]
        cls,
        model: nn.Module,
        config: CaseConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        for layer in cls._find_layers(model, [adapter_name]):
            layer.get_adapter(adapter_name).record_sizes(config)
        state = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        state = encode_parameters(state, getattr(torch, config.storage_dtype))
        vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        return encode_tokens(state, vocabulary)


def _repeat(routes: Tensor | None, tokens: Tensor | None) -> Tensor | None:
    """The held routes where rows were repeated since, as for several beams or samples of each prompt."""
    if routes is None or tokens is None or len(routes) == len(tokens):
        return routes
    return routes.repeat_interleave(len(tokens) // len(routes)) if len(tokens) % len(routes) == 0 else None


def _find_mask(mask: object, tokens: Tensor) -> Tensor | None:
    """Which tokens of a prompt are no padding, `(batch, seq)`, from any form in which a model takes its mask."""
    if isinstance(mask, dict):  # one for each kind of attention; the padding is the same
        mask = next((one for one in mask.values() if one is not None), None)
    if not isinstance(mask, Tensor):
        return None
    if mask.dim() == 4:  # (batch, 1, seq, keys), boolean or added: a token that may look at itself is no padding
        own = mask[:, 0].diagonal(dim1=1, dim2=2)[:, : tokens.shape[1]]
        return own if own.dtype == torch.bool else own == 0
    return mask[:, -tokens.shape[1] :]
