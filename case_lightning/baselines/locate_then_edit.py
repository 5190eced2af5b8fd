"""What MEMIT and AlphaEdit share: find where a fact lives, the value wanted there, and write it layer by layer.

With `k_i^l` the input of layer l's down-projection at the lookup token of edit i, a mean over prefixes, and `z_i` the
value wanted of the state that leaves the last edited layer L, each edited layer in turn takes an even share of what is
still missing [1, equations 19 and 20],

    r_i^l = (z_i − h_i^L) / (number of edited layers from l to L),

and changes its weight by a `Δ^l` with `Δ^l k_i^l ≈ r_i^l`. How `Δ` follows from keys and residuals is where the methods
differ. Keys and `h^L` are read anew for each layer, for the layers before it have changed them. As in the authors' code
the plain prompt weighs as much in a key as all the prefixed ones together.

References:
    [1] Meng, Sen Sharma, Andonian, Belinkov, Bau: Mass-editing memory in a transformer. ICLR 2023.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from case_lightning.base import Base
from case_lightning.base.partial import read_inputs
from case_lightning.baselines.fact_lookup import Lookup, look_up, write_prefixes
from case_lightning.baselines.key_statistics import read_text, second_moments
from case_lightning.baselines.overwritten import OverwritingMethod
from case_lightning.baselines.target_values import SearchSettings, ValueSearch
from case_lightning.data import Edit
from case_lightning.errors import ConfigError

FIRST_DEPTH, LAST_DEPTH = 0.13, 0.27  # of the model: where the edited layers begin and end
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class LocateThenEditSettings:
    """Where facts are written and how their values are searched for.

    Args:
        layers: Edited decoder layers, from low to high, not the model's last; by default those from 13 % to 27 % of the
            depth, 4 to 7 of 30.
        text: Plain text file over which keys are counted; by default the calibration text that the package carries.
        n_prefixes: Texts that the model writes to put before each prompt.
        search: How values are searched for.
    """

    layers: tuple[int, ...] | None = None
    text: str | None = None
    n_prefixes: int = 5
    search: SearchSettings = field(default_factory=SearchSettings)


class LocateThenEdit(OverwritingMethod):
    """Writes values wanted at lookup tokens into the down-projections of several layers.

    Args:
        base: The frozen base model.
        seed: Of the prefixes.
        settings: Where and how.

    Raises:
        ConfigError: The layers are not in order, or hold the model's last.
    """

    def __init__(self, base: Base, seed: int, settings: LocateThenEditSettings) -> None:
        """Choose the layers; statistics are taken when first asked for."""
        self.layers = choose_layers(base, settings.layers)
        self.names = {layer: base.architecture.down_projections[layer] for layer in self.layers}
        super().__init__(base, seed, list(self.names.values()))
        self.options = settings
        self.search: ValueSearch | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Take statistics of the unedited model, once, before the first edit."""

    @abstractmethod
    def solve(self, layer: int, keys: Tensor, residuals: Tensor) -> Tensor:
        """The update of a layer's weight.

        Args:
            layer: Index of the layer.
            keys: `K`, `(d_in, edits)` in float64.
            residuals: `R`, what is to be added at each key, `(d_out, edits)` in float64.

        Returns:
            `Δ`, `(d_out, d_in)`.
        """

    def finish(self, lookups: Sequence[Lookup], n_edits: int) -> None:
        """Take note of a batch once it is written; by default nothing is.

        Args:
            lookups: Where each edit is looked up, behind each prefix, as `read` takes them.
            n_edits: Edits of the batch.
        """

    @override
    def edit(self, edits: Sequence[Edit]) -> None:
        if self.search is None:
            self.search = self._start()
        lookups = [look_up(self.base.tokenizer, edit, prefix) for prefix in self.search.prefixes for edit in edits]
        with self.weights.applied():
            wanted = self.search(edits).double()  # (edits, hidden)
            for index, layer in enumerate(self.layers):
                keys, reached = self.read(layer, lookups, len(edits))
                residuals = (wanted - reached) / (len(self.layers) - index)
                self.weights.add(self.names[layer], self.solve(layer, keys.T, residuals.T))
            self.finish(lookups, len(edits))
        self.n_steps = self.search.n_steps

    def _start(self) -> ValueSearch:
        with self.weights.applied(edited=False):
            self.prepare()
            prefixes = write_prefixes(self.base, self.options.n_prefixes, self.seed)
            return ValueSearch(self.base, self.layers[-1], prefixes, self.options.search)

    def count_keys(self) -> dict[int, Tensor]:
        """`E[k kᵀ]` of each edited layer over the text, `(d_in, d_in)` in float64."""
        tokens = read_text(self.base.tokenizer, self.options.text)
        projections = [self.base.model.get_submodule(name) for name in self.names.values()]
        return dict(zip(self.layers, second_moments(self.base.model, projections, tokens), strict=True))

    def read(self, layer: int, lookups: Sequence[Lookup], n_edits: int) -> tuple[Tensor, Tensor]:
        """What the model has at the lookup tokens now.

        Args:
            layer: Whose keys are read.
            lookups: Those of all edits behind the first prefix, then behind the second …
            n_edits: How many edits there are.

        Returns:
            Keys `(edits, d_in)` and states that leave the last edited layer `(edits, hidden)`, in float64.
        """
        model, architecture = self.base.model, self.base.architecture
        modules = [model.get_submodule(self.names[layer]), architecture.layers[self.layers[-1] + 1]]
        found: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(lookups), ROWS_AT_ONCE):
            part = lookups[start : start + ROWS_AT_ONCE]
            tokens = pad_sequence([one.encoded.tokens for one in part], batch_first=True).to(model.device)
            positions = torch.tensor([one.position for one in part], device=model.device)
            keys, states = read_inputs(model, modules, tokens)
            rows = torch.arange(len(part), device=model.device)
            found.append((keys[rows, positions].double(), states[rows, positions].double()))
        keys = torch.cat([part for part, _ in found]).view(-1, n_edits, architecture.d_in)
        states = torch.cat([part for _, part in found])[:n_edits]
        return mean_key(keys), states


def mean_key(keys: Tensor) -> Tensor:
    """The key of each edit: the plain prompt's and the mean of the prefixed ones', half each.

    Args:
        keys: `(prefixes, edits, d_in)`, the first without a prefix.

    Returns:
        `(edits, d_in)`.
    """
    return (keys[0] + keys[1:].mean(0)) / 2 if len(keys) > 1 else keys[0]


def choose_layers(base: Base, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers that are edited, from low to high.

    Args:
        base: The base model.
        layers: Those asked for, if any.

    Raises:
        ConfigError: They are not in order, or one has no layer above it.
    """
    above = base.architecture.n_layers - 1
    if above < 1:
        raise ConfigError(
            "layers: the base model has one alone, and the value is wanted of a state that a layer above reads"
        )
    if layers is None:
        first = min(round(FIRST_DEPTH * (above + 1)), above - 1)
        return tuple(range(first, max(round(LAST_DEPTH * (above + 1)), first + 1)))
    chosen = tuple(base.architecture.check_layer(layer) for layer in layers)
    if not chosen or list(chosen) != sorted(set(chosen)) or chosen[-1] >= above:
        raise ConfigError(
            f"layers: expected some of 0 to {above - 1} in rising order, each once, found {list(layers)}; the value is "
            f"wanted of a state that a layer above reads"
        )
    return chosen
