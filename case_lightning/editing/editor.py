"""The editor: a base model, its adapter, and one fit for every batch of edits."""

import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from case_lightning.base import Base
from case_lightning.base.partial import read_projection
from case_lightning.base.suffix import Prefix, Suffix, choose_attention, choose_dtype
from case_lightning.callbacks import ConflictAllocation, MethodPlots
from case_lightning.config import RunSettings
from case_lightning.data import Edit
from case_lightning.editing.batches import EditBatch, PreparedEdit, StepData, collate
from case_lightning.editing.consolidation import PassData, find_resting, find_touched, is_due
from case_lightning.editing.encoding import make_keys
from case_lightning.editing.loggers import build_logger
from case_lightning.editing.loss import label_loss
from case_lightning.editing.method_callbacks import EditActivationMemory, EditKeyProtection, EditNeuronMask, name_weight
from case_lightning.editing.module import EditModule, run_suffix
from case_lightning.editing.preparation import Kept, Preparation
from case_lightning.editing.variation import find_rivals
from case_lightning.errors import ConfigError
from case_lightning.method.allocation import Allocation
from case_lightning.method.mask_summary import MaskSummary
from case_lightning.subspace import CaseConfig, CaseModel
from case_lightning.subspace.relation import RELATION_DEPTH, find_boundaries
from case_lightning.subspace.router import read_calibration

STATES_THRESHOLD, WORDS_THRESHOLD = 0.25, 0.1  # of the router's relation


@dataclass(frozen=True)
class BatchOutcome:
    """What editing one batch came to.

    Attributes:
        allocations: Where each edit went.
        losses_before: Loss of each edit in the unedited model, end token included.
        losses: The same after the fit.
        hits: Share of each target's tokens that the edited model now predicts, through the router.
        seconds: Time of the fit, everything but these figures included.
        masks: Which neurons were tuned, a mask for each subspace of the batch.
    """

    allocations: list[Allocation]
    losses_before: list[float]
    losses: list[float]
    hits: list[float]
    seconds: float
    masks: list[MaskSummary]


def make_config(base: Base, settings: RunSettings) -> CaseConfig:
    """The configuration of a fresh adapter for a base model."""
    layer = base.architecture.check_layer(
        base.architecture.default_layer if settings.base.layer is None else settings.base.layer
    )
    subspace = dict(vars(settings.subspace))
    by_states = subspace.pop("relation") == "states"
    if subspace["relation_threshold"] is None:
        subspace["relation_threshold"] = STATES_THRESHOLD if by_states else WORDS_THRESHOLD
    return CaseConfig(
        target_modules=[base.architecture.down_projections[layer]],
        layer=layer,
        seed=settings.seed,
        relation_layer=round(RELATION_DEPTH * base.architecture.n_layers) if by_states else None,
        boundary_tokens=find_boundaries(base.tokenizer) if by_states else [],
        base_fingerprint=base.fingerprint,
        base_model_name_or_path=base.name,
        task_type="CAUSAL_LM",
        **subspace,
    )


def put_adapter(base: Base, settings: RunSettings) -> PeftModel:
    """Put a fresh, empty adapter on a base model."""
    model = cast(PeftModel, get_peft_model(base.model, make_config(base, settings)))
    layer = cast(CaseModel, model.base_model).case_layer
    calibration = read_calibration(base.tokenizer)
    layer.adapter.keys.calibrate(calibration)
    try:
        layer.adapter.subspaces.whiten(*read_projection(base.model, layer, calibration))
    except ValueError as error:
        raise ConfigError(f"subspace.n_directions: {error}") from error
    return model


class Editor:
    """Writes batches of edits into a model.

    Args:
        base: The frozen base model.
        model: The same with its adapter.
        settings: How to edit.
        log_dir: Where the Lightning logger writes; by default nowhere.
        callbacks: Further callbacks of every fit.
        kept: See `Preparation`.

    Attributes:
        callbacks: The method's own, whose states a run goes on from.
        subspaces: The subspace of each edit that was made, retired ones too.
        edits: The edits that hold.
        past: The same, ready to be rehearsed.
        n_keys: How many router keys each has.
    """

    def __init__(
        self,
        base: Base,
        model: PeftModel,
        settings: RunSettings,
        log_dir: Path | None = None,
        callbacks: Sequence[Callback] = (),
        kept: Kept | None = None,
    ) -> None:
        """Build the parts that all fits share."""
        if settings.training.chat and not base.tokenizer.chat_template:
            raise ConfigError(f"training.chat: the tokenizer of {base.name} has no chat template; set it to false")
        self.base, self.model, self.settings = base, model, settings
        self.tuner = cast(CaseModel, model.base_model)
        self.tuner.read_with(base.tokenizer)
        self.config = cast(CaseConfig, model.peft_config["default"])
        self.adapter = self.tuner.case_layer.adapter
        layer = base.architecture.check_layer(cast(int, self.config.layer))
        training, memory = settings.training, settings.memory
        shared = [self.tuner.case_layer.case_adapter]
        parts = (base.model, base.architecture, layer)
        self.suffix = Suffix(*parts, shared=shared)
        dtype = choose_dtype(training.frozen_dtype, base.model)
        fitted = Suffix(*parts, dtype, shared, choose_attention(base.model))
        prefixes = Prefix(*parts), Prefix(*parts, dtype)
        self.prepare = Preparation(base, settings, self.config, prefixes, (self.suffix, fitted), kept)
        self.module = EditModule(fitted, training.learning_rate, training.weight_decay)
        self.allocation = ConflictAllocation(**vars(settings.conflict))
        self.memory = EditActivationMemory("", memory.size, memory.weight, memory.temperature, settings.seed)
        kind = training.mask
        self.masks = [] if kind == "none" else [EditNeuronMask(kind, training.mask_size, settings.seed)]
        protects = training.protection > 0 and not self.config.tune_input  # a tuned `A` reads past edits otherwise
        self.protection = EditKeyProtection(training.protection) if protects else None
        protection = [self.protection] if self.protection else []
        self.callbacks: list[Callback] = [self.allocation, self.memory, *self.masks, *protection]
        self.plots = MethodPlots("edits") if log_dir and settings.trainer.logger == "tensorboard" else None
        plots = [self.plots] if self.plots else []
        self.trainer = _build_trainer(base, settings, log_dir, [*self.callbacks, *plots, *callbacks])
        self.consolidator = _build_trainer(base, settings, None, list(callbacks))
        self.subspaces: list[int] = []
        self.edits: list[Edit] = []
        self.past: list[PreparedEdit] = []
        self.n_keys: list[int] = []

    @property
    def n_made(self) -> int:
        """How many edits were made, retired ones too."""
        return len(self.subspaces)

    def edit(self, edits: Sequence[Edit], closing: int = 0) -> BatchOutcome:
        """Write one batch of edits into the model: one fit.

        Args:
            edits: The batch.
            closing: Edits of the stream that ends with it; 0 where none does.
        """
        started = time.perf_counter()
        profile = self.trainer.profiler.profile  # type: ignore[attr-defined]  # set by a function that mypy cannot see
        with profile("prefix"):
            new = self._prepare(edits)
        with profile("gradients"):
            self.module.prepare(new)
        data = StepData(
            lambda: self.module.new,
            self.past,
            self.settings.training.steps,
            self.settings.training.n_rehearsed,
            seed=self._seed(),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if self.plots:
            self.plots.n_examples = self.n_made
        with profile("fit"):
            self._fit(data, self.trainer)
        losses_before = self.module.losses
        masks = [one for mask in self.masks for one in mask.summarize()]
        with profile("commit"):
            self._commit(edits)
        before = self.n_made - len(edits)
        if is_due(before, self.n_made, self.settings.consolidation, closing):
            with profile("consolidation"):
                self.consolidate(before)
        self.rest()
        seconds = time.perf_counter() - started
        losses, hits = self.check(range(len(self.past) - len(edits), len(self.past)))
        if self.plots:
            figures = {"loss": losses, "reliability": hits, "seconds": [seconds]}
            means = {name: sum(values) / len(edits) for name, values in figures.items()}
            self.plots.log_values(self.trainer, means)
        return BatchOutcome(self.allocation.allocations, losses_before, losses, hits, seconds, masks)

    @torch.no_grad()
    def check(self, indices: Sequence[int]) -> tuple[list[float], list[float]]:
        """Loss and share of right target tokens of edits made so far, each through the route that the router gives it.

        Args:
            indices: Which of `edits`.
        """
        losses: list[float] = []
        hits: list[float] = []
        width = self.settings.evaluation.batch_size
        for start in range(0, len(indices), width):
            chosen = [self.past[index] for index in indices[start : start + width]]
            batch = collate(chosen)
            prompts = [edit.text.encoded.prompt for edit in chosen]
            routes = self.tuner.router.locate_each(prompts)
            batch.routes.copy_(routes.subspaces)
            batch.starts.copy_((routes.starts - torch.tensor([edit.text.offset for edit in chosen])).clamp_min(0))
            logits = run_suffix(self.suffix, batch)
            nll = label_loss(logits, batch.labels)
            right = (logits.argmax(-1) == batch.labels).float()
            for row in range(len(chosen)):
                mine = batch.rows == row
                counted = right[mine][:-1] if self._ends_with_token else right[mine]
                losses.append(nll[mine].mean().item())
                hits.append(counted.mean().item())
        return losses, hits

    def recall(self, edits: Sequence[Edit], subspaces: Sequence[int], resting: Collection[int] = ()) -> None:
        """Take up a batch that the adapter holds already, to rehearse and check its edits.

        Args:
            edits: All of its edits, retired ones too, so that their states are computed as they were then.
            subspaces: Where each went.
            resting: Subspaces that are trained no more.
        """
        varied = any(index not in resting for index in subspaces)
        prepared = self._prepare(edits, varied)
        self.module.count(subspaces)
        self._note(edits, [replace(one, subspace=index) for one, index in zip(prepared, subspaces, strict=True)])

    def rest(self) -> None:
        """Let go of the other wordings of edits whose subspaces are trained no more."""
        resting = find_resting(self.subspaces, self.settings.conflict.capacity, self.settings.consolidation)
        for place, edit in enumerate(self.past):
            if edit.subspace in resting and (edit.variants or edit.chats):
                self.past[place] = replace(edit, variants=(), chats=())

    def resume(self, n_batches: int) -> None:
        """Number the fits to come, in the log, as those after so many batches."""
        for stage in ("ready", "started", "processed", "completed"):
            setattr(self.trainer.fit_loop.epoch_progress.current, stage, n_batches)
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = n_batches * self.settings.training.steps

    def retire(self, ids: Collection[str]) -> None:
        """Have some edits no longer answer, nor be rehearsed; what a subspace learned of them stays in it."""
        gone = [edit.id in ids for edit in self.edits]
        if len(self.adapter.keys) and any(gone):
            mine = torch.repeat_interleave(torch.tensor(gone), torch.tensor(self.n_keys))
            others = mine.new_zeros(len(self.adapter.keys) - len(mine))  # of edits that it was loaded with
            self.adapter.keys.remove(torch.cat([others, mine]))
        self.forget(ids)

    def forget(self, ids: Collection[str]) -> None:
        """Retire edits whose router keys are gone already."""
        kept = [index for index, edit in enumerate(self.edits) if edit.id not in ids]
        self.edits = [self.edits[index] for index in kept]
        self.past = [self.past[index] for index in kept]
        self.n_keys = [self.n_keys[index] for index in kept]

    def assess(self, edits: Sequence[Edit]) -> list[list[float]]:
        """The conflict score of each edit with each subspace, without making it."""
        self.module.prepare(self.prepare(edits, varied=False))
        directions = self.module.directions()
        return [
            [self.allocation.assess(index, direction, gradient) for index, direction in enumerate(directions)]
            for gradient in self.module.example_gradients()
        ]

    def state(self) -> dict[str, Tensor]:
        """The adapter's tensors, by name, as its file has them."""
        self._fill()
        return cast(dict[str, Tensor], get_peft_model_state_dict(self.model, save_embedding_layers=False))

    def save(self, folder: Path) -> None:
        """Write the adapter in PEFT's format."""
        self._fill()
        self.adapter.record_sizes(self.config)
        self.model.save_pretrained(str(folder), save_embedding_layers=False)

    def _fill(self) -> None:
        """Have the adapter hold what the activation memory holds."""
        if self.memory.rows:
            self.adapter.memory.replace(self.memory.rows)

    def consolidate(self, before: int) -> None:
        """Learn past edits again, all together, in the subspaces that were trained since they last were.

        Args:
            before: Edits made before the last batch.
        """
        touched = find_touched(self.subspaces, before, self.settings.consolidation)
        data = PassData(
            [edit for edit in self.past if edit.subspace in touched],
            self.settings.consolidation,
            self._seed(),
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        self.module.reopen(sorted(touched), len(data))
        self._fit(data, self.consolidator)
        self._round()

    def _prepare(self, edits: Sequence[Edit], varied: bool = True) -> list[PreparedEdit]:
        """Prepare new edits, and those past ones anew of whose subject they say something else."""
        prepared = self.prepare(edits, varied, self.edits)
        varied_before = (place for place, past in enumerate(self.past) if past.variants)
        places = [place for place in varied_before if find_rivals(self.edits[place], edits)]
        if places:
            mine, past = [self.edits[place] for place in places], [self.past[place] for place in places]
            for place, renewed in zip(places, self.prepare.renew(past, mine, [*self.edits, *edits]), strict=True):
                self.past[place] = renewed
        return prepared

    def _fit(self, data: IterableDataset[EditBatch], trainer: Trainer) -> None:
        trainer.fit_loop.max_epochs = trainer.current_epoch + 1
        try:
            trainer.fit(self.module, DataLoader(data, batch_size=None))
        except SystemExit as ended:
            if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning makes the one of the other
                raise KeyboardInterrupt from ended
            raise SystemExit(ended.code or 128 + signal.SIGTERM) from ended
        self.tuner.case_layer._move_adapter_to_device_of_base_layer("default")  # a fit ends with its module on the CPU

    def _commit(self, edits: Sequence[Edit]) -> None:
        """Round to what is stored, and let the router know the new edits."""
        self._round()
        for edit, prepared in zip(edits, self.module.new, strict=True):
            for tokens, in_subject in make_keys(self.base.tokenizer, edit):
                self.adapter.keys.add(tokens, in_subject, prepared.subspace)
        self._note(edits, self.module.new)

    def _round(self) -> None:
        self.adapter.subspaces.round_to(getattr(torch, self.settings.subspace.storage_dtype))

    def _seed(self) -> int:
        return self.settings.seed * 1_000_003 + self.n_made

    def _note(self, edits: Sequence[Edit], prepared: Sequence[PreparedEdit]) -> None:
        if self.protection:
            for one in prepared:
                self.protection.learn(name_weight(one.subspace), self.module.read_keys(one))
        self.subspaces += [one.subspace for one in prepared]
        self.edits += edits
        self.past += prepared
        self.n_keys += [len(make_keys(self.base.tokenizer, edit)) for edit in edits]

    @property
    def _ends_with_token(self) -> bool:
        return self.settings.training.append_end and self.base.tokenizer.eos_token_id is not None


def choose_place(settings: RunSettings, device: torch.device) -> dict[str, Any]:
    """The trainer's settings, so that what is trained is where the base model is."""
    place: dict[str, Any] = dict(vars(settings.trainer))
    if place["accelerator"] == "auto" and device.type == "cpu":
        place["accelerator"] = "cpu"
    if device.type == "cuda" and device.index is not None and place["devices"] == 1:
        place["devices"] = [device.index]  # Lightning would take the first one
    return place


def _build_trainer(base: Base, settings: RunSettings, log_dir: Path | None, callbacks: list[Callback]) -> Trainer:
    place = choose_place(settings, base.model.device)
    kind = place.pop("logger")
    try:
        return Trainer(
            **place,
            max_epochs=1,
            callbacks=callbacks,
            logger=build_logger(kind, log_dir) if log_dir else False,
            log_every_n_steps=settings.training.steps,  # the last one of each fit
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ImportError, ValueError) as error:
        raise ConfigError(f"trainer: Lightning does not take these settings: {error}") from error
