"""Ours behind the interface of the others: CASE, as `fit` runs it, without a run folder.

The parts are those of a run: one fit a batch, rehearsal of past edits, consolidation, a router. An edit whose question
an earlier one has takes that one's place. What is stored is the adapter, as its file has it. Not among it, as in a run,
is what only further edits need: the text of the past ones, which a run keeps in its ledger to rehearse. A method that
was loaded answers to the bit as the one that was saved, but neither rehearses nor counts an edit from before.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.method import EditingMethod
from case_lightning.config import (
    BaseSettings,
    ConflictSettings,
    ConsolidationSettings,
    MemorySettings,
    RunSettings,
    SubspaceSettings,
    TrainingSettings,
)
from case_lightning.data import Edit
from case_lightning.data.checks import keep_latest, normalize_question
from case_lightning.editing.answering import RoutedModel, Side
from case_lightning.editing.editor import Editor, make_config, put_adapter

SEED = "seed"  # without which what is stored cannot be read: the input side of the subspaces comes from it
SIZES = {  # what tells each size of a stored adapter: the end of a tensor's name
    "n_keys": ".keys.lengths",
    "n_key_tokens": ".keys.tokens",
    "n_calibration": ".keys.calibration",
    "n_memories": ".memory.subspaces",
}
SUBSPACE = ".subspaces.up."


@dataclass(frozen=True)
class CaseSettings:
    """The sections of a run's settings that say how it edits.

    Args:
        layer: The edited layer; by default at four fifths of the depth.
        subspace: The subspaces and their router.
        conflict: Conflict-assessed allocation.
        memory: Knowledge activation regularisation.
        training: The fit of one batch.
        consolidation: Past edits learned again.
    """

    layer: int | None = None
    subspace: SubspaceSettings = field(default_factory=SubspaceSettings)
    conflict: ConflictSettings = field(default_factory=ConflictSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    consolidation: ConsolidationSettings = field(default_factory=ConsolidationSettings)

    def fill_run(self, seed: int = 0) -> RunSettings:
        """The settings of a run that edits so.

        Args:
            seed: Of the subspaces' input side, rehearsal and reservoir.
        """
        sections = dict(vars(self))
        return RunSettings(seed=seed, base=BaseSettings(layer=sections.pop("layer")), **sections)


class Case(EditingMethod):
    """Edits by CASE.

    Args:
        base: The frozen base model, which gets the adapter put into it.
        seed: Of the subspaces' input side, rehearsal and reservoir.
        settings: How to edit.

    Attributes:
        editor: What makes the edits.
    """

    editor: Editor

    def __init__(self, base: Base, seed: int = 0, settings: CaseSettings | None = None) -> None:
        """Put an empty adapter on the base model."""
        super().__init__(base, seed)
        self.settings = (settings or CaseSettings()).fill_run(seed)
        self._take(put_adapter(base, self.settings))

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        latest = keep_latest(edits)
        asked = {normalize_question(edit.prompt) for edit in latest}
        self.editor.retire({old.id for old in self.editor.edits if normalize_question(old.prompt) in asked})
        before = self._count_steps()
        self.editor.edit(latest)
        self.n_steps += self._count_steps() - before

    @override
    def answering(
        self, prompts: Sequence[Tensor], edited: bool = True, padding: Side = "right"
    ) -> AbstractContextManager[None]:
        return self.routed.answering(prompts, edited, padding)

    @override
    def state(self) -> dict[str, Tensor]:
        return self.editor.state() | {SEED: torch.tensor(self.settings.seed)}

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        stored = {name: value for name, value in state.items() if name != SEED}
        self.settings = replace(self.settings, seed=int(state[SEED]))
        config = make_config(self.base, self.settings)
        for name, size in find_sizes(stored).items():
            setattr(config, name, size)
        self.editor.model.unload()
        model = get_peft_model(self.base.model, config)
        set_peft_model_state_dict(model, stored)
        self._take(model)
        self.editor.module.counts = [0] * len(self.editor.adapter.subspaces)

    def _take(self, model: PeftModel) -> None:
        self.editor = Editor(self.base, model, self.settings)
        self.routed = RoutedModel(self.base, model)

    def _count_steps(self) -> int:
        return self.editor.trainer.global_step + self.editor.consolidator.global_step


def find_sizes(state: dict[str, Tensor]) -> dict[str, int]:
    """The sizes of a stored adapter, by the names that its configuration has for them.

    Args:
        state: Its tensors, by name.
    """
    sizes = {size: len(value) for name, value in state.items() for size, end in SIZES.items() if name.endswith(end)}
    return sizes | {"n_subspaces": sum(SUBSPACE in name and not name.endswith("_scale") for name in state)}
