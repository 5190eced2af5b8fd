"""The frozen prefix, run once an edit, and the suffix, run once a step.

Everything below the edited layer is frozen, so its outcome for a text never changes: `Prefix` runs it once and keeps
the states that enter the edited layer. `Suffix` runs the rest of the model from such states, with the model's own
forward, so it holds for every architecture: in a copy of its structure, which shares its parameters, the layers below
are ones that do nothing, the edited layer is handed the kept states, and only the positions that carry a label go
through the output head.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from typing_extensions import override

from case_lightning.base.architecture import Architecture
from case_lightning.base.grouping import choose_overhead, group_rows
from case_lightning.base.partial import ReachedError, bring_out, run_until_reached
from case_lightning.base.past import Past, begin_cache, pad_past, read_cache
from case_lightning.base.twin import copy_structure, set_attention

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # processor capabilities


class _Skipped(nn.Module):
    """Stands in for a layer whose outcome is already known."""

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple

    @override
    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if self.returns_tuple else hidden_states


class _Exit(nn.Module):
    """Stands in for a layer above those that are run: what enters it is what was asked for."""

    @override
    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        raise ReachedError(hidden_states)


class Prefix:
    """Runs the layers below the edited one.

    It has modules of its own, without hooks, which share the parameters of the model's or hold them in another dtype.

    Args:
        model: The base model, with or without an adapter.
        architecture: Its parts.
        layer: Index of the edited layer.
        dtype: To compute in; by default that of each parameter.
        batch_tokens: Padded tokens to run at once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        architecture: Architecture,
        layer: int,
        dtype: torch.dtype | None = None,
        batch_tokens: int = 2048,
    ) -> None:
        """Take the model apart."""
        twins: dict[nn.Module, nn.Module] = {architecture.output_head: architecture.output_head}  # never run
        twins |= {module: _stand_in(module, _Exit()) for module in architecture.layers[layer:]}
        self.model = cast(PreTrainedModel, copy_structure(model, twins, {}, dtype))
        self.batch_tokens = batch_tokens

    @torch.no_grad()
    def __call__(self, sequences: Sequence[Tensor]) -> list[Tensor]:
        """The states that enter the edited layer.

        Args:
            sequences: Token ids of each text, `(length,)`.

        Returns:
            For each text `(length, hidden)`.
        """
        states: dict[int, Tensor] = {}
        lengths = [len(sequence) for sequence in sequences]
        for rows in group_rows(lengths, choose_overhead(self.model.dtype), self.batch_tokens):
            padded = pad_sequence([sequences[row] for row in rows], batch_first=True).to(self.model.device)
            entering = bring_out(partial(self.model, input_ids=padded, use_cache=False))
            states |= {row: state[: lengths[row]].clone() for row, state in zip(rows, entering, strict=True)}
        return [states[row] for row in range(len(sequences))]


class Suffix:
    """Runs the edited layer and those above it, from kept states to logits.

    It has modules of its own, without hooks. They share the parameters of the model's, or hold them in another dtype.

    Args:
        model: The base model with the adapter on it.
        architecture: Its parts.
        layer: Index of the edited layer.
        dtype: To compute in; by default that of each parameter.
        shared: Modules that are used as they are, such as the adapter.
        attention: Name of an implementation of attention; by default the model's own.

    Attributes:
        edited: The edited down-projection.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        architecture: Architecture,
        layer: int,
        dtype: torch.dtype | None = None,
        shared: Sequence[nn.Module] = (),
        attention: str | None = None,
    ) -> None:
        """Take the model apart."""
        self.dtype = dtype or model.dtype
        returns_tuple = _returns_tuple(model, architecture.layers[0])
        twins = {module: module for module in shared}
        twins |= {module: _stand_in(module, _Skipped(returns_tuple)) for module in architecture.layers[:layer]}
        self.model = cast(PreTrainedModel, copy_structure(model, twins, {}, dtype))
        if attention:
            set_attention(self.model, attention)
        self.entry, self.head = twins[architecture.layers[layer]], twins[architecture.output_head]
        self.edited = self.model.get_submodule(architecture.down_projections[layer])
        self.top_mlp = self._find_top_mlp(architecture, layer)
        self.n_below = layer
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def __call__(
        self,
        states: Tensor,
        rows: Tensor,
        columns: Tensor,
        others: Sequence[Tensor] = (),
        past: Past | None = None,
    ) -> Tensor:
        """Logits at given positions.

        Padding is on the right, where causal attention never looks, so no mask is needed.

        Args:
            states: What enters the edited layer, `(batch, seq, hidden)`.
            rows: Row of each wanted position, `(positions,)`.
            columns: Its column, `(positions,)`.
            others: What `run_to_head` gave for other states: the head, which is slow for few positions, takes all of
                them at once.
            past: What comes before the states, if anything does.

        Returns:
            `(positions, vocabulary)`, those of `others` first.
        """
        with only_positions(self.head, rows, columns, others):
            logits: Tensor = self._run(states, rows, columns, past).logits
        return logits[0]

    @torch.no_grad()
    def read_past(self, states: Sequence[Tensor]) -> list[Past]:
        """What positions that no edit acts on are to those behind them.

        Args:
            states: What enters the edited layer at the beginning of each text, `(past, hidden)`; it may be nothing.
        """
        lengths = [len(state) for state in states]
        pasts: dict[int, Past] = {}
        for rows in group_rows(lengths, choose_overhead(self.dtype)):
            pasts |= dict(zip(rows, self._read_past([states[row] for row in rows]), strict=True))
        return [pasts[row] for row in range(len(states))]

    def _read_past(self, states: Sequence[Tensor]) -> list[Past]:
        padded = pad_sequence(list(states), batch_first=True).to(self.dtype)
        if not padded.shape[1]:
            padded = padded.new_zeros(len(padded), 1, padded.shape[2])  # a model is never run on nothing
        cache = begin_cache(self.n_below, padded.new_zeros(len(padded), 1, 0, 1))
        with _handed_over(self.entry, padded):
            self.model.base_model(
                inputs_embeds=self._stand_in_embeddings(padded), past_key_values=cache, use_cache=True
            )
        return read_cache(cache, self.n_below, [len(state) for state in states])

    @torch.no_grad()
    def can_keep_past(self, states: Tensor) -> bool:
        """Whether a past and what stands behind it give what both give at once: not in every architecture.

        Args:
            states: What enters the edited layer over some text, `(length, hidden)`; a few tokens will do.
        """
        texts, starts = [states, states[:-1]], [len(states) // 2, 1]
        rows, last = torch.arange(2), torch.tensor([len(text) - 1 for text in texts])
        expected = self(pad_sequence(texts, batch_first=True), rows, last)
        try:
            before = [text[:start] for text, start in zip(texts, starts, strict=True)]
            behind = [text[start:] for text, start in zip(texts, starts, strict=True)]
            past = pad_past(self.read_past(before))
            found = self(pad_sequence(behind, batch_first=True), rows, last - torch.tensor(starts), past=past)
        except Exception:  # a model with a cache of its own kind: what it raises is not known
            return False
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.05
        return bool((found - expected).float().norm() < tolerance * expected.float().norm())

    def run_to_head(self, states: Tensor, rows: Tensor, columns: Tensor, past: Past | None = None) -> Tensor:
        """What enters the output head at given positions, `(positions, hidden)`; arguments as of a call."""
        return self._run_to(self.head, states, rows, columns, past)[rows, columns]

    @torch.no_grad()
    def run_to_edited(self, states: Tensor, rows: Tensor, columns: Tensor, past: Past | None = None) -> Tensor:
        """What enters the edited projection, `(batch, seq, d_in)`; arguments as of a call."""
        entering = self._run_to(self.edited, states, rows, columns, past)
        return entering.reshape(*states.shape[:2], -1)  # some models flatten what enters their MLPs

    def _run_to(self, module: nn.Module, *args: Any) -> Tensor:  # noqa: ANN401  as of `_run`
        """What enters a module."""

        def leave(_: nn.Module, entering: tuple[Tensor, ...]) -> None:
            raise ReachedError(entering[0])

        handle = module.register_forward_pre_hook(leave)
        try:
            return bring_out(partial(self._run, *args))
        finally:
            handle.remove()

    def _run(self, states: Tensor, rows: Tensor, columns: Tensor, past: Past | None) -> Any:  # noqa: ANN401  as the model returns
        states = states.to(self.dtype)
        spared = _nothing_beside(self.top_mlp, rows, columns) if self.top_mlp else nullcontext()
        before = self._put_before(past, states.shape[1]) if past else {"use_cache": False}
        with _handed_over(self.entry, states), spared:
            return self.model(inputs_embeds=self._stand_in_embeddings(states), **before)

    def _put_before(self, past: Past, width: int) -> dict[str, Any]:
        """Arguments by which the model sees a past before so many columns."""
        mask, positions = past.place(width)
        given = {"position_ids": positions} if self._takes_positions else {}
        cache = past.fill_cache(self.n_below, self.dtype)
        return {"attention_mask": mask, "past_key_values": cache, "use_cache": True, **given}

    def _find_top_mlp(self, architecture: Architecture, layer: int) -> nn.Module | None:
        """The last layer's MLP, where it is a module of its own and not the edited one, whose rows have routes."""
        path = architecture.down_projections[-1].rpartition(".")[0]
        top = architecture.n_layers - 1
        return None if layer == top or path == f"{architecture.layers_path}.{top}" else self.model.get_submodule(path)

    def _stand_in_embeddings(self, states: Tensor) -> Tensor:
        """Zeros in the shape of embeddings, whose width a few models project to that of the states."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return states.new_zeros(*states.shape[:2], weight.shape[1])


def choose_dtype(name: str, model: PreTrainedModel) -> torch.dtype:
    """The dtype to run a suffix in.

    Args:
        name: `auto`, `float32`, `bfloat16` or `float16`. `auto` is bfloat16 for a float32 model on a processor with
            instructions for its products (AMX or AVX-512), where they are twice as fast or more, else the model's own.
        model: The base model.
    """
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    # newer than the oldest PyTorch that will do
    read: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    is_fast = model.device.type == "cpu" and any(read().get(name, False) for name in FAST_BFLOAT16)
    return torch.bfloat16 if is_fast and model.dtype == torch.float32 else model.dtype


def choose_attention(model: PreTrainedModel) -> str | None:
    """How a suffix computes attention: on a processor the plain way, a tenth faster on texts as long as edits are."""
    return "eager" if model.device.type == "cpu" else None


@contextmanager
def _handed_over(entry: nn.Module, states: Tensor) -> Iterator[None]:
    """Have a layer compute from these states, whatever comes from below."""

    def hand_over(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (states, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": states}

    handle = entry.register_forward_pre_hook(hand_over, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _returns_tuple(model: PreTrainedModel, layer: nn.Module) -> bool:
    """Whether the model's layers return a tuple, as some still do."""
    found: list[bool] = []

    def look(_: nn.Module, __: tuple[Any, ...], output: object) -> None:
        found.append(isinstance(output, tuple))
        raise ReachedError

    run_until_reached(model, layer.register_forward_hook(look), [torch.zeros(1, 1, dtype=torch.long)])
    return found[0]


def _stand_in(layer: nn.Module, other: nn.Module) -> nn.Module:
    """A module in a layer's place, with the plain attributes that a model's loop may read, such as its attention."""
    for name, value in vars(layer).items():
        if isinstance(value, (str, int, bool)) and not hasattr(other, name):
            setattr(other, name, value)
    return other


@contextmanager
def _nothing_beside(mlp: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Have the last layer's MLP compute some positions alone, and leave zeros at the others, which nobody reads."""
    whole: list[torch.Size] = []

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole.append(args[0].shape)
        return (args[0][rows, columns], *args[1:])

    def scatter(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.new_zeros(whole.pop()).index_put((rows, columns), output)

    handles = [mlp.register_forward_pre_hook(gather), mlp.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def only_positions(head: nn.Module, rows: Tensor, columns: Tensor, others: Sequence[Tensor] = ()) -> Iterator[None]:
    """Have an output head compute logits at some positions alone; inside, they come as `(1, positions, vocabulary)`.

    Args:
        head: The output head.
        rows: Row of each position, `(positions,)`.
        columns: Its column, `(positions,)`.
        others: What goes through it before them, `(positions, hidden)` each.
    """

    def gather(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.cat([*others, args[0][rows, columns]])[None], *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()
