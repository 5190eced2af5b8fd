"""UltraEdit: one backward pass, features normalised over all edits so far, one least-squares update a module.

References:
    [1] Gu, Huang, Gu, Zhang: UltraEdit: training-, subject-, and memory-free lifelong editing in language models. 2025.
        arXiv:2505.14679.
    [2] Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances. 1982.

For each edited module let `h_i` be what enters it at a position that predicts a token of some target, and `g_i` the
gradient of that target's loss with respect to what leaves it there. Of the features `z_i = [h_i ‖ g_i]` mean `μ` and
variance `σ²` are kept over all edits so far, those of this batch too [2], and each feature is normalised by them [1],

    ẑ_i = (z_i − μ) / (σ + ε) = [ĥ_i ‖ ĝ_i] .                                                                     (1)

What is wanted of the module beyond its present output is a step down the normalised gradient, and the update is the
least-squares one with ridge,

    v_i = −η ‖ĥ_i‖² ĝ_i ,                                                                                         (2)
    Δ = Vᵀ H (HᵀH + λ I)⁻¹,    the minimum over Δ of  Σ_i ‖Δ h_i − v_i‖² + λ ‖Δ‖² ,                               (3)

with λ = 1 in [1]. No text is needed for statistics, no subject, and nothing but `μ`, `σ²` and a count is kept of past
edits.

Ours: the loss is a sum over a batch's target tokens, where the authors' code takes their mean, so that a token's
feature does not depend on how many others its batch has; the normalisation takes up the difference. And each module has
statistics of its own; in the authors' code those of the same shape share theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.base.architecture import Architecture
from case_lightning.base.suffix import only_positions
from case_lightning.baselines.overwritten import OverwritingMethod
from case_lightning.data import Edit
from case_lightning.editing.encoding import Encoded, encode
from case_lightning.editing.loss import label_loss
from case_lightning.errors import ConfigError

FIRST_DEPTH, LAST_DEPTH = 18 / 28, 27 / 28  # of the model: where the edited layers begin and end, as for GPT-J in [1]
EDITS_AT_ONCE = 16
EPSILON = torch.finfo(torch.float32).eps
STATISTICS = "statistics."  # before a module's dotted name, in a method's state


@dataclass(frozen=True)
class UltraEditSettings:
    """Settings of UltraEdit.

    Args:
        modules: Dotted names of the edited linear modules; by default the down-projections of the layers from 64 % to
            96 % of the depth, 19 to 28 of 30.
        learning_rate: η in (2); 1e-6 in the authors' code, for models of billions of parameters, by which the default
            model hardly moves.
        ridge: λ in (3).
    """

    modules: tuple[str, ...] | None = None
    learning_rate: float = 3e-4
    ridge: float = 1.0


@dataclass(frozen=True)
class RunningMoments:
    """Mean and variance of the features that one module has had.

    Attributes:
        count: How many features.
        mean: `μ`, `(features,)`.
        squares: Sum of the squared distances from the mean, `(features,)`.
    """

    count: int
    mean: Tensor
    squares: Tensor

    def update(self, features: Tensor) -> "RunningMoments":
        """The moments with more features, `(n, features)`, taken in [2, equation 2.1]."""
        added, mean = len(features), features.mean(0)
        count, shift = self.count + added, mean - self.mean
        squares = (features - mean).square().sum(0) + shift.square() * (self.count * added / count)
        return RunningMoments(count, self.mean + shift * (added / count), self.squares + squares)

    def normalize(self, features: Tensor) -> Tensor:
        """Features `(n, features)` less their mean, over their standard deviation (1)."""
        deviation = (self.squares / max(self.count - 1, 1)).sqrt()
        return (features - self.mean) / (deviation + EPSILON)


class UltraEdit(OverwritingMethod):
    """Edits by one backward pass and one least-squares update a module and batch.

    Args:
        base: The frozen base model.
        seed: Unused: nothing is random.
        settings: Where and how.

    Attributes:
        moments: Of each module that was edited before, by its name.

    Raises:
        ConfigError: The model has no such module.
    """

    def __init__(self, base: Base, seed: int = 0, settings: UltraEditSettings | None = None) -> None:
        """Find the modules."""
        self.settings = settings or UltraEditSettings()
        super().__init__(base, seed, choose_modules(base, self.settings.modules))
        self.moments: dict[str, RunningMoments] = {}

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        questions = [encode(self.base.tokenizer, edit.prompt, edit.target) for edit in edits]
        parts = [questions[start : start + EDITS_AT_ONCE] for start in range(0, len(questions), EDITS_AT_ONCE)]
        modules = list(self.weights.modules.values())
        with self.weights.applied():
            found = [read_features(self.base.model, self.base.architecture, modules, part) for part in parts]
        for index, name in enumerate(self.weights.modules):
            inputs = torch.cat([part[index][0] for part in found])
            gradients = torch.cat([part[index][1] for part in found])
            self.weights.add(name, self._solve(name, inputs, gradients))

    def _solve(self, name: str, inputs: Tensor, gradients: Tensor) -> Tensor:
        """The update of a module's weight, `(d_out, d_in)`; its moments take the features in before."""
        features = torch.cat([inputs, gradients], dim=1)
        nothing = torch.zeros_like(features[0])
        moments = self.moments.get(name, RunningMoments(0, nothing, nothing)).update(features)
        self.moments[name] = moments
        normalized, directions = torch.tensor_split(moments.normalize(features), [inputs.shape[1]], dim=1)
        values = wanted_values(normalized, directions, self.settings.learning_rate)
        return ridge_update(inputs, values, self.settings.ridge)

    @override
    def progress(self) -> dict[str, Tensor]:
        """For each module count, mean and sum of squares, `(3, features)`."""
        return {
            STATISTICS + name: torch.stack([torch.full_like(one.mean, one.count), one.mean, one.squares])
            for name, one in self.moments.items()
        }

    @override
    def load_progress(self, progress: dict[str, Tensor]) -> None:
        device = self.base.model.device
        rows = {name.removeprefix(STATISTICS): value.to(device) for name, value in progress.items()}
        self.moments = {name: RunningMoments(int(count[0]), *rest) for name, (count, *rest) in rows.items()}


def choose_modules(base: Base, names: Sequence[str] | None) -> list[str]:
    """Dotted names of the modules that are edited.

    Args:
        base: The base model.
        names: Those asked for, if any.

    Raises:
        ConfigError: There is none of such a name, or one is named twice.
    """
    if names is None:
        n_layers = base.architecture.n_layers
        first = min(round(FIRST_DEPTH * n_layers), n_layers - 1)
        return list(base.architecture.down_projections[first : max(round(LAST_DEPTH * n_layers), first + 1)])
    known = dict(base.model.named_modules())
    for name in names:
        if name not in known or names.count(name) > 1:
            raise ConfigError(
                f"modules: expected dotted names of linear modules, each once, such as "
                f"{base.architecture.down_projections[0]}, found {name!r}"
            )
    return list(names)


@torch.enable_grad()
def read_features(
    model: PreTrainedModel, architecture: Architecture, modules: Sequence[nn.Module], questions: Sequence[Encoded]
) -> list[tuple[Tensor, Tensor]]:
    """What enters some modules at the positions that predict targets, and the gradients of what leaves them there.

    Args:
        model: The base model, frozen, so that nothing below the lowest of the modules is differentiated.
        architecture: Its parts.
        modules: The modules.
        questions: Prompts with their targets.

    Returns:
        For each module `h`, `(labels, d_in)`, and `g`, `(labels, d_out)`, in float64.
    """
    tokens = pad_sequence([one.tokens for one in questions], batch_first=True).to(model.device)
    counts = torch.tensor([len(one.labels) for one in questions])
    rows = torch.repeat_interleave(torch.arange(len(questions)), counts).to(tokens.device)
    columns = torch.cat([one.columns for one in questions]).to(tokens.device)
    labels = torch.cat([one.labels for one in questions]).to(tokens.device)
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen[module] = args[0].detach(), output if output.requires_grad else output.requires_grad_()

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        with only_positions(architecture.output_head, rows, columns):
            logits = model(input_ids=tokens, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(label_loss(logits, labels).sum(), [seen[module][1] for module in modules])
    kept = [(seen[module][0], gradient) for module, gradient in zip(modules, gradients, strict=True)]
    # some models flatten batch and sequence before the MLP
    pick = [[one.reshape(*tokens.shape, -1)[rows, columns].double() for one in pair] for pair in kept]
    return [(inputs, gradient) for inputs, gradient in pick]


def wanted_values(normalized: Tensor, directions: Tensor, learning_rate: float) -> Tensor:
    """`v = −η ‖ĥ‖² ĝ` (2), a row a position.

    Args:
        normalized: `ĥ`, `(labels, d_in)`.
        directions: `ĝ`, `(labels, d_out)`.
        learning_rate: `η`.

    Returns:
        `(labels, d_out)`.
    """
    return -learning_rate * normalized.square().sum(1, keepdim=True) * directions


def ridge_update(inputs: Tensor, values: Tensor, ridge: float) -> Tensor:
    """`Δ = Vᵀ H (HᵀH + λ I)⁻¹` (3), as `Vᵀ (H Hᵀ + λ I)⁻¹ H`, a matrix of the size of a batch.

    Args:
        inputs: `H`, `(labels, d_in)`.
        values: `V`, `(labels, d_out)`.
        ridge: `λ`, above 0.

    Returns:
        `(d_out, d_in)`.
    """
    gram = inputs @ inputs.T + ridge * torch.eye(len(inputs)).to(inputs)  # (labels, labels)
    solved: Tensor = torch.linalg.solve(gram, inputs)
    return values.T @ solved
