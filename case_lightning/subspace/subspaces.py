"""The subspaces themselves: low-rank updates `ΔW_i = s · B_i A_i` of one projection.

Each row of a batch goes through its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from case_lightning.errors import ConfigError
from case_lightning.method.activation import dequantize, quantize
from case_lightning.method.basis import Whitening, build_basis, measure_whitening
from case_lightning.method.conflict import OuterSum

SCALE = "_scale"
RESTORE = "restore the file from a copy"
DRAWS = 8
UNEDITED = -1  # the route of a row that sees the frozen weight alone


class Subspaces(nn.Module):
    """A growing set of low-rank updates of one `d_in → d_out` projection.

    `A_i` is fixed and comes from the seed and the whitening of its inputs, so only `B_i` is trained and stored; or it
    starts there and is trained and stored as well.

    Args:
        d_in: Input width of the projection.
        d_out: Its output width.
        rank: Rank of each subspace.
        scale: `s`.
        seed: Seed of `A`; subspace i has seed + i, so a run can be repeated.
        n_directions: Directions of a whitening to make room for.
        tune_input: Whether `A` is trained.
    """

    scales: Tensor
    directions: Tensor
    shrinks: Tensor
    draws: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        rank: int,
        scale: float = 1.0,
        seed: int = 0,
        n_directions: int = 0,
        tune_input: bool = False,
    ) -> None:
        """Start without subspaces, and with inputs as they are."""
        super().__init__()
        self.d_in, self.d_out, self.rank, self.scale, self.seed = d_in, d_out, rank, scale, seed
        self.tune_input = tune_input
        self.register_buffer("scales", torch.ones(d_in))
        self.register_buffer("directions", torch.zeros(n_directions, d_in, dtype=torch.float16))
        self.register_buffer("shrinks", torch.zeros(n_directions))
        self.register_buffer("draws", torch.zeros(min(DRAWS, d_in)))  # of `A_0`, to know it again
        self.down = nn.ParameterList()  # A_i, (rank, d_in), where they are trained
        self.up = nn.ParameterList()  # B_i, (d_out, rank)
        self._bases: dict[int, Tensor] = {}  # A_i where they are fixed, built when asked for

    def __len__(self) -> int:
        """Number of subspaces."""
        return len(self.up)

    def whiten(self, inputs: Tensor, outputs: Tensor) -> None:
        """Have the subspaces that are opened from now on read whitened inputs.

        Args:
            inputs: Inputs of the projection over ordinary text, `(tokens, d_in)`.
            outputs: Its outputs for them, `(tokens, d_out)`.

        Raises:
            ValueError: There are subspaces already, or the inputs are too few or of no use.
        """
        if len(self):
            raise ValueError(f"whitening comes before the first subspace is opened, found {len(self)} open")
        size = outputs.float().square().mean().sqrt().item()
        whitening = measure_whitening(inputs, len(self.directions), size)
        self.scales = whitening.scales
        self.directions = whitening.directions.half()  # as stored: a reloaded adapter builds the same `A`
        self.shrinks = whitening.shrinks

    def open(self, device: torch.device | str | None = None) -> int:
        """Add an initial subspace `ΔW_0^0`, with `B` zero, which changes nothing yet.

        Returns:
            Its index.
        """
        self.up.append(nn.Parameter(torch.zeros(self.d_out, self.rank, device=device)))
        index = len(self) - 1
        if self.tune_input:
            self.down.append(nn.Parameter(self._build(index).to(device)))
        return index

    def basis(self, index: int) -> Tensor:
        """`A_i`, `(rank, d_in)`."""
        if self.tune_input:
            tuned: Tensor = self.down[index]
            return tuned
        device = self.up[index].device
        if index not in self._bases or self._bases[index].device != device:
            self._bases[index] = self._build(index).to(device)
            if index == 0 and not self.draws.is_meta:
                self._check_draws(self._bases[0])
        return self._bases[index]

    def parameters_of(self, index: int) -> dict[str, nn.Parameter]:
        """What is trained of a subspace, by name: `up` and, where `A` is tuned, `down`."""
        return {"up": self.up[index]} | ({"down": self.down[index]} if self.tune_input else {})

    def update(self, index: int, inputs: Tensor) -> Tensor:
        """`ΔW_i x` in float32.

        Args:
            index: `i`.
            inputs: `x`, `(..., d_in)`.

        Returns:
            `(..., d_out)`.
        """
        features = inputs.float() @ self.basis(index).float().T  # (..., rank)
        update: Tensor = functional.linear(features, self.up[index].float()) * self.scale
        return update

    def forward(self, output: Tensor, inputs: Tensor, routes: Tensor, starts: Tensor | None = None) -> Tensor:
        """Add each row's own update to the frozen projection's output.

        Args:
            output: `W x`, `(batch, seq, d_out)`.
            inputs: `x`, `(batch, seq, d_in)`.
            routes: Subspace of each row or `UNEDITED`, `(batch,)`.
            starts: The position from which on each row is edited, `(batch,)`; by default all are.

        Returns:
            `(batch, seq, d_out)`; the rows of `UNEDITED` routes, and positions before a start, are those of `output`,
            bit for bit.
        """
        for index in sorted(set(routes.tolist()) - {UNEDITED}):
            rows = (routes == index).nonzero().squeeze(1)
            if starts is None:
                output = output.index_add(0, rows, self.update(index, inputs[rows]).to(output.dtype))
                continue
            positions = torch.arange(inputs.shape[1], device=inputs.device)
            places, columns = (positions >= starts[rows, None]).nonzero(as_tuple=True)
            update = self.update(index, inputs[rows[places], columns]).to(output.dtype)
            output = output.index_put((rows[places], columns), update, accumulate=True)
        return output

    def direction(self, index: int) -> OuterSum:
        """The update direction `E_i` of a subspace, as factors."""
        return OuterSum.from_adapter(self.basis(index).detach(), self.up[index].detach(), self.scale)

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Round all parameters to what a file of `dtype` holds: a saved adapter answers exactly like this one."""
        for parameter in self.parameters():
            rounded = dequantize(*quantize(parameter.T)).T if dtype == torch.int8 else parameter.to(dtype)
            parameter.copy_(rounded)

    def _build(self, index: int) -> Tensor:
        if self.scales.is_meta:
            return torch.empty(self.rank, self.d_in, device="meta")
        whitening = Whitening(self.scales.cpu().float(), self.directions.cpu().float(), self.shrinks.cpu().float())
        # it outlives the mode it happens to be asked for in
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            return build_basis(self.rank, whitening, self.seed + index)

    def _check_draws(self, basis: Tensor) -> None:
        """Note the beginning of `A_0`, or see that it is what it was when the adapter was made."""
        draws = basis[0, : len(self.draws)]
        if not self.draws.any():
            self.draws = draws.clone()
        elif not torch.allclose(draws, self.draws.to(draws), rtol=1e-2, atol=1e-3 * float(draws.abs().max())):
            raise ConfigError(
                "the seed gives other random numbers than when this adapter was made; use the version of PyTorch that "
                "made it, or make the edits again from the run's ledger"
            )

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        for name in [name for name in state_dict if name.startswith(prefix) and name.endswith(SCALE)]:
            scale, codes = state_dict.pop(name), state_dict.get(name.removesuffix(SCALE))
            if codes is None or codes.dtype != torch.int8 or scale.shape != (1, codes.shape[1]):
                raise ConfigError(f"{name}: expected a scale for each column of eight-bit codes; {RESTORE}")
            state_dict[name.removesuffix(SCALE)] = dequantize(codes, scale)
        bare = [name for name, value in state_dict.items() if name.startswith(prefix) and value.dtype == torch.int8]
        if bare:
            raise ConfigError(f"{bare[0]}: its eight-bit codes have no scales; {RESTORE}")
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._bases.clear()  # built from other numbers


def encode_parameters(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A state dict in which the subspaces' parameters are in the dtype of a file.

    Those in int8 have a scale for each column beside them, named as they are with `SCALE` at the end. A column is a
    neuron, so one that was frozen in a fit stays as it is, to the bit, when the others are rounded.
    """
    encoded = {}
    for name, value in state.items():
        if ".subspaces.up." not in name and ".subspaces.down." not in name:
            encoded[name] = value
        elif dtype == torch.int8:
            codes, scale = quantize(value.T)
            encoded[name], encoded[name + SCALE] = codes.T.contiguous(), scale.T.contiguous()
        else:
            encoded[name] = value.to(dtype)
    return encoded
