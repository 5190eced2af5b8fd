"""GRACE: a codebook of keys and values at one layer, the model's weights untouched.

With `h` what enters the chosen module at the prompt's last token, and keys `k_i`, values `v_i` and deferral radii `ε_i`
stored so far, the module puts out at that token [1, section 3]

    v_j  if ‖h − k_j‖ ≤ ε_j  where  j = argmin_i ‖h − k_i‖,   else what it would put out anyway.                   (1)

An edit with key `h` and label `y` changes the codebook before its value is trained [1, algorithm 1]. At distance `d`
from the nearest key, whose label is `y_j`:

    d > ε_j + ε_init         add a key with radius ε_init,
    else y = y_j             expand: ε_j ← max(ε_j, d),
    else                     split: ε_j ← d/2, and add a key with radius d/2.                                      (2)

The value of the edit's key begins at random and is found by Adam on `−Σ_j log P(y_j ∣ x, y_{<j})`.

The module is the down-projection, and the value replaces its output at the prompt's last token alone, both as in
EasyEdit's settings for Qwen2.5-7B; the authors' own put it in the place of every token up to there. Both keys of a
split stop short of the middle, of which (1) leaves open whose it is. Ours: an edit of a prompt that is a key already
takes the key's place, for nothing can be split at distance 0.

References:
    [1] Hartvigsen, Sankaranarayanan, Palangi, Kim, Ghassemi: Aging with GRACE: lifelong model editing with discrete
        key-value adaptors. NeurIPS 2023. arXiv:2211.11031.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.baselines.changed_output import Change
from case_lightning.baselines.trained import OneLayerMethod
from case_lightning.data import Edit
from case_lightning.editing.answering import Side

NONE = -1  # a prompt in no radius; in stored labels, no token
SPLIT = 0.5 - 1e-6  # of a distance


@dataclass(frozen=True)
class GraceSettings:
    """How to fill the codebook.

    Args:
        layer: The edited layer; by default the one that the package edits.
        radius: `ε_init`, in units of the projection's input; 1 in [1].
        steps: Optimizer steps a batch, at most.
        learning_rate: Of Adam; 1 in [1].
        enough: A loss below it ends a batch's steps.
    """

    layer: int | None = None
    radius: float = 1.0
    steps: int = 50
    learning_rate: float = 1.0
    enough: float = 0.01


class Codebook:
    """Keys with their radii and labels.

    Args:
        d_in: Length of a key.
        device: Where they are.

    Attributes:
        keys: `(n, d_in)`.
        radii: `(n,)`.
        labels: Tokens of each edit's target, `(answer,)` each.
    """

    def __init__(self, d_in: int, device: torch.device) -> None:
        """Begin without keys."""
        self.keys, self.radii = torch.zeros(0, d_in, device=device), torch.zeros(0, device=device)
        self.labels: list[Tensor] = []

    def find(self, query: Tensor) -> int:
        """The key (1) that a query defers to, or `NONE`.

        Args:
            query: `(d_in,)`.
        """
        if not self.labels:
            return NONE
        distance, nearest = self._measure(query)
        return nearest if distance <= self.radii[nearest] else NONE

    def add(self, query: Tensor, label: Tensor, radius: float) -> int:
        """Change keys and radii for an edit as in (2).

        Args:
            query: Its key, `(d_in,)`.
            label: Tokens of its target, `(answer,)`.
            radius: `ε_init`.

        Returns:
            Index of the key that is now the edit's: an old one, or the last.
        """
        if not self.labels:
            return self._append(query, label, radius)
        distance, nearest = self._measure(query)
        if distance > self.radii[nearest] + radius:
            return self._append(query, label, radius)
        if distance == 0:
            self.labels[nearest] = label
        elif not torch.equal(self.labels[nearest], label):
            self.radii[nearest] = SPLIT * distance
            return self._append(query, label, SPLIT * distance)
        self.radii[nearest] = max(distance, self.radii[nearest].item())
        return nearest

    def _measure(self, query: Tensor) -> tuple[float, int]:
        """Distance and index of the nearest key; a difference, not a product, so that a key is at 0 from itself."""
        distances = (self.keys - query).norm(dim=1)
        nearest = int(distances.argmin())
        return distances[nearest].item(), nearest

    def _append(self, query: Tensor, label: Tensor, radius: float) -> int:
        self.keys = torch.cat([self.keys, query[None]])
        self.radii = torch.cat([self.radii, self.radii.new_tensor([radius])])
        self.labels.append(label)
        return len(self.labels) - 1


class Grace(OneLayerMethod):
    """Edits by a codebook.

    Args:
        base: The frozen base model.
        seed: Of the values before they are trained.
        settings: How to fill the codebook.

    Attributes:
        codebook: Keys, radii and labels.
        values: What each key makes the projection put out, `(n, d_out)`.
    """

    def __init__(self, base: Base, seed: int = 0, settings: GraceSettings | None = None) -> None:
        """Begin with an empty codebook."""
        self.settings = settings or GraceSettings()
        super().__init__(base, seed, self.settings.layer)
        self.generator = torch.Generator().manual_seed(seed)
        self.codebook = Codebook(base.architecture.d_in, base.model.device)
        self.values = torch.zeros(0, base.architecture.d_out, device=base.model.device)

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        texts = self.encode(edits)
        queries = self._read_queries([text.prompt for text in texts])
        pairs = zip(queries, texts, strict=True)
        chosen = torch.tensor([self.codebook.add(one, text.labels, self.settings.radius) for one, text in pairs])
        new = torch.rand(len(self.codebook.labels) - len(self.values), self.values.shape[1], generator=self.generator)
        values = torch.cat([self.values, new.to(self.values)]).requires_grad_()
        columns = torch.tensor([text.n_prompt - 1 for text in texts])
        rows = torch.arange(len(texts))
        batch = self.prepare(texts)
        optimizer = torch.optim.Adam([values], lr=self.settings.learning_rate)
        self.descend(
            lambda: self.changed_loss(batch, replace_tokens(rows, columns, values[chosen])),
            optimizer,
            self.settings.steps,
            self.settings.enough,
        )
        self.values = values.detach()

    @override
    def choose_change(self, prompts: Sequence[Tensor], padding: Side) -> Change | None:
        chosen = torch.tensor([self.codebook.find(query) for query in self._read_queries(prompts)])
        if (chosen == NONE).all():
            return None
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        columns = (lengths if padding == "right" else lengths.max().expand(len(lengths))) - 1
        rows = (chosen != NONE).nonzero()[:, 0]
        return replace_tokens(rows, columns[rows], self.values[chosen[rows]])

    @override
    def state(self) -> dict[str, Tensor]:
        labels = self.codebook.labels or [torch.zeros(0, dtype=torch.long)]
        return {
            "keys": self.codebook.keys,
            "radii": self.codebook.radii.clone(),
            "values": self.values,
            "labels": pad_sequence(labels, batch_first=True, padding_value=NONE),
        }

    @override
    def load_state(self, state: dict[str, Tensor]) -> None:
        device = self.base.model.device
        keys, radii, self.values = (state[name].to(device) for name in ("keys", "radii", "values"))
        self.codebook.keys, self.codebook.radii = keys, radii
        self.codebook.labels = [label[label != NONE] for label in state["labels"][: len(keys)]]

    def _read_queries(self, prompts: Sequence[Tensor]) -> Tensor:
        """What enters the projection at each prompt's last token, `(prompts, d_in)`."""
        return torch.stack([key[-1].float() for key in self.read_keys(prompts)])


def replace_tokens(rows: Tensor, columns: Tensor, values: Tensor) -> Change:
    """A change that puts out given values at given tokens and leaves all others as they are.

    Args:
        rows: Row of each token, `(tokens,)`.
        columns: Its column, `(tokens,)`.
        values: What is put out there, `(tokens, d_out)`.
    """

    def change(x: Tensor, y: Tensor, start: int) -> Tensor:
        here = (columns >= start) & (columns < start + y.shape[1])
        return y.index_put((rows[here].to(y.device), columns[here].to(y.device) - start), values[here].to(y.dtype))

    return change
