"""What the method does, logged while it goes on: scalars to any logger, plots to one that takes figures."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from case_lightning.callbacks.conflict_allocation import ConflictAllocation
from case_lightning.callbacks.sensitive_neuron_mask import SensitiveNeuronMask
from case_lightning.metrics import ConflictScores, Retention, SensitivityDistribution, SubspaceGrowth
from case_lightning.metrics.edit_metric import EditMetric


class MethodPlots(Callback):
    """Reads the trainer's other callbacks after every fit, and logs what they did.

    Figures go to loggers whose `experiment` has `add_figure`, such as TensorBoard's. Steps are examples learned so far;
    where no `ConflictAllocation` counts them, optimizer steps. The first process of a distributed run logs.

    Args:
        prefix: What names of figures and scalars begin with.

    Raises:
        ModuleNotFoundError: At the first figure, without matplotlib.
    """

    def __init__(self, prefix: str = "method") -> None:
        """Build empty metrics."""
        self.prefix = prefix
        self.n_examples = 0
        alone = {"sync_on_compute": False}  # every process sees all examples
        self.conflict, self.growth = ConflictScores(**alone), SubspaceGrowth(**alone)
        self.sensitivity, self.retention = SensitivityDistribution(**alone), Retention(**alone)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a function that mypy cannot see
            if isinstance(callback, ConflictAllocation):
                self._add_allocations(callback)
            elif isinstance(callback, SensitiveNeuronMask):
                self._add_masks(callback, trainer)
        if self.growth.update_count:
            self.log_values(trainer, {"subspaces": self.growth.compute()[..., 1].max().item()})
        for name in ("conflict", "growth", "sensitivity"):
            self._draw(trainer, name, getattr(self, name))

    def log_values(self, trainer: Trainer, values: Mapping[str, float | None]) -> None:
        """Log scalars at the number of examples so far; those that are not there are left out."""
        known = {f"{self.prefix}/{name}": value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(known, self.n_examples or trainer.global_step)

    def log_retention(self, trainer: Trainer, n_edits: int, value: float) -> None:
        """Add a point to the retention curve, and log it."""
        self.retention.update(n_edits, value)
        self.log_values(trainer, {"retention": value})
        self._draw(trainer, "retention", self.retention)

    def _add_allocations(self, callback: ConflictAllocation) -> None:
        for allocation in callback.allocations:
            self.n_examples += 1
            self.growth.update(self.n_examples, allocation.subspace)
            finite = [score for score in allocation.scores if torch.tensor(score).isfinite()]
            if allocation.scores and len(finite) == len(allocation.scores):
                self.conflict.update(self.n_examples, allocation.scores)

    def _add_masks(self, callback: SensitiveNeuronMask, trainer: Trainer) -> None:
        for name, found in callback.sensitivities.items():
            self.sensitivity.update(found, callback.masks[name])
        for one in callback.summarize():
            values = {"tuned_neurons": float(sum(one.kept)), "threshold": one.threshold, "tuned_share": one.share}
            self.log_values(trainer, {f"{one.parameter}/{key}": value for key, value in values.items()})

    def _draw(self, trainer: Trainer, name: str, metric: EditMetric) -> None:
        experiments: list[Any] = [getattr(logger, "experiment", None) for logger in trainer.loggers]
        takers = [experiment for experiment in experiments if hasattr(experiment, "add_figure")]
        if not (takers and trainer.is_global_zero and metric.update_count):
            return
        figure: Any = metric.plot()[0]
        for experiment in takers:
            experiment.add_figure(f"{self.prefix}/{name}", figure, self.n_examples or trainer.global_step, close=True)
