"""The PEFT tuner: injects the layer, routes each row once, and checks that an adapter is on its own base model."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from case_lightning.base import find_architecture, fingerprint
from case_lightning.base.suffix import Prefix
from case_lightning.errors import BaseModelError, ConfigError
from case_lightning.subspace.config import CaseConfig
from case_lightning.subspace.held import HELD, NO_TOKEN, Generation, Held, Routes, drop_padding, read_text
from case_lightning.subspace.keys import RouterKeys, encode_tokens
from case_lightning.subspace.layer import CaseLayer
from case_lightning.subspace.numbers import Numbers
from case_lightning.subspace.phrasebook import read_phrasebook
from case_lightning.subspace.relation import RelationSpace
from case_lightning.subspace.router import Router, TokenSpace
from case_lightning.subspace.spelling import Spelling
from case_lightning.subspace.subspaces import encode_parameters
from case_lightning.subspace.topics import Topics

HOOKS = "_case_hooks"  # attribute of a base model: the handles of the hooks that route its rows


class CaseModel(BaseTuner):
    """A causal language model with subspaces on one MLP down-projection and a router before its first layer.

    A row in the scope of an edit goes through its subspace from where it has named the edit's subject on.

    Each row is routed by its whole text, once a prompt. In `generate` that is when the call begins, and it holds to the
    end, whatever the cache, the beams, the chunks of the prompt or an assistant's drafts. Outside of `generate` it is
    in every forward that brings several tokens; a single one continues an answer and keeps its route.

    A key-value cache carries the text and the routes of its rows, so the next turn of a conversation is routed by all
    turns, as it would be without a cache. What the cache holds by then stays as it was computed: where a later turn is
    the first to ask about an edit, that turn and its answer go through the edit's subspace and attend to keys and
    values of earlier turns that did not.

    Routes are the model's state while it runs: one thread at a time.

    PEFT builds it, from the base model, a `CaseConfig` and the adapter's name.
    """

    prefix: str = "case_"
    tuner_layer_cls = CaseLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  PEFT's name; targets are found by structure
    _router: Router | None = None
    _given: PreTrainedTokenizerBase | None = None
    _tokenizer: PreTrainedTokenizerBase | None = None  # a copy of it
    _forced: Routes | None = None
    _generation: Generation | None = None
    _held: Held = Held()  # after the forward under way

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
            self._router = self.build_router(config, keys)
        return self._router

    def build_router(self, config: CaseConfig, keys: RouterKeys, like: Router | None = None) -> Router:
        """A router for some keys.

        Args:
            config: The adapter's.
            keys: Its keys.
            like: A router for other keys of the same run, which lends what it has computed.
        """
        thresholds = (config.subject_threshold, config.relation_threshold)
        spelling = topics = numbers = None
        if self._tokenizer is not None:
            spelling, numbers = Spelling(self._tokenizer, keys), Numbers(self._tokenizer)
            lent = like.topics if like else None
            topics = Topics(self._tokenizer, keys, read_phrasebook(), lent) if config.phrasebook else None
        if like is not None:
            return Router(like.space, keys, *thresholds, like.relations, spelling, topics, numbers, config.from_subject)
        space = TokenSpace(self.model.get_input_embeddings().weight.detach(), keys.calibration)
        relations = None
        if config.relation_layer is not None:
            states = Prefix(self.model, find_architecture(self.model), config.relation_layer)
            relations = RelationSpace(states, keys.calibration, config.boundary_tokens)
        return Router(space, keys, *thresholds, relations, spelling, topics, numbers, config.from_subject)

    def read_with(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let the router read prompts with their tokenizer: misspelt names, numbers, common questions.

        An adapter needs no tokenizer; without one, a misspelt name is another name, numbers are tokens like others, and
        no question is known.
        """
        if tokenizer is not self._given:
            # a tokenizer's settings change with every call, and another thread may be encoding
            self._given, self._tokenizer, self._router = tokenizer, deepcopy(tokenizer), None

    @contextmanager
    def forced_routes(self, subspaces: Tensor, starts: Tensor | None = None) -> Iterator[None]:
        """Send the rows of every forward inside through given subspaces, whatever the router would say.

        Args:
            subspaces: Subspace of each row or −1, `(batch,)`.
            starts: The column of its text from which on each is edited, `(batch,)`; by default the first.
        """
        starts = torch.zeros_like(subspaces) if starts is None else starts
        before, self._forced = self._forced, Routes(subspaces, starts)
        try:
            yield
        finally:
            self._forced = before

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: object, **kwargs: object) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "adapter_names: not taken, as the router decides for each row; ask the unedited model inside of "
                "disable_adapter()"
            )
        yield

    @override
    def _check_merge_allowed(self) -> None:
        raise ValueError("a case adapter cannot be merged: which subspace applies, if any, depends on the prompt")

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
        """The base model's `generate`, as one generation."""
        generate = type(self.model).generate
        if self._generation is not None:  # the model drafts for itself
            return generate(self.model, *args, **kwargs)
        prompt = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        self._generation = Generation.begin(prompt, kwargs.get("attention_mask"))
        try:
            return generate(self.model, *args, **kwargs)
        finally:
            self._generation = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a text grows with every token
    def _decide_routes(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
        inputs |= inputs.pop("kwargs", {})
        tokens, cache = inputs.get("input_ids"), inputs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        held = getattr(cache, HELD, Held()) if past else Held()
        text = held.text
        if tokens is not None:
            mask = inputs.get("attention_mask")
            text = held.extend(past, read_text(tokens, mask, past))
            if past == 0 and mask is None:
                text = drop_padding(text, getattr(model.config, "pad_token_id", None))
        continues = past > 0 and (tokens is None or tokens.shape[1] == 1)
        layer = self.case_layer
        routes = layer.routes = layer.starts = None
        if not layer.disable_adapters:
            _check_rows(inputs)
            routes = self._choose_routes(text, held if continues else None)
            if routes is not None:
                routes = routes.repeated(inputs["inputs_embeds"] if tokens is None else tokens)
                layer.routes, layer.starts = routes.subspaces, None if continues else routes.starts - past
        self._held = Held(held.routes if continues else routes, text)
        if cache is not None:
            setattr(cache, HELD, self._held)

    def _choose_routes(self, text: Tensor | None, held: Held | None) -> Routes | None:
        """Routes from the first that applies: forced ones, the generation's, those held, the router's."""
        if self._forced is not None:
            return self._forced
        if self._generation is not None:
            return self._generation.decide(text, self._route)
        return self._route(text) if held is None else held.routes

    def _route(self, text: Tensor | None) -> Routes | None:
        if text is None or not len(self.case_layer.adapter.keys):
            return None
        return self.router.locate(text, text != NO_TOKEN)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _hold_routes(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None and not hasattr(cache, HELD):  # made by the model itself
            setattr(cache, HELD, self._held)
        self.case_layer.routes = self.case_layer.starts = None

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


def _check_rows(inputs: dict[str, Any]) -> None:
    if inputs.get("cu_seq_lens_q") is not None:
        raise ValueError(
            "several prompts packed into one row, as by continuous batching, cannot be routed each on its own; "
            "give each a row of its own, padded, or disable the adapter"
        )
