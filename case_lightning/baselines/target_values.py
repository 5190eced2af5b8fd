"""The value that a layer should have at a fact's lookup token, found by gradient descent [1, equation 16].

For each edit, with `h` the state that leaves layer L at the subject's last token,

    z = h + argmin_δ  (1/P) Σ_j −log p(target | prefix_j + prompt; h += δ) / |target|
                      + w_KL · KL( p(· | "<subject> is a"; h += δ) ‖ p(· | "<subject> is a") )
                      + w_decay · ‖δ‖ / ‖h‖²,        ‖δ‖ ≤ c ‖h‖ .

The first term writes the fact, behind P prefixes alike; the second keeps what the subject is; the third and the bound,
from the authors' code, keep the state in proportion. An edit's search ends early once its loss is below `ENOUGH`. The
edits of a batch do not touch one another, so they are searched for together.

As in the paper the divergence is taken where `<subject> is a` ends; the authors' code takes it at the subject's last
token. An edit without a subject has no such term.

References:
    [1] Meng, Sen Sharma, Andonian, Belinkov, Bau: Mass-editing memory in a transformer. ICLR 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from case_lightning.base import Base
from case_lightning.base.suffix import Prefix, Suffix, choose_attention, choose_dtype
from case_lightning.baselines.fact_lookup import look_up, look_up_essence
from case_lightning.data import Edit
from case_lightning.editing.loss import label_loss

ENOUGH = 0.05
EDITS_AT_ONCE = 16
ROWS_AT_ONCE = 16  # of like length, so that little is padded: openings make some texts twice as long as others


@dataclass(frozen=True)
class SearchSettings:
    """How a value is searched for.

    Args:
        steps: Most steps of Adam.
        learning_rate: Of Adam.
        kl_weight: Of the divergence on what the subject is.
        weight_decay: Of the length of the change.
        clamp: Longest change, as a share of the state's own length.
    """

    steps: int = 25
    learning_rate: float = 0.5
    kl_weight: float = 0.0625
    weight_decay: float = 0.5
    clamp: float = 0.75


@dataclass(frozen=True)
class Wording:
    """One text of one edit, ready to be run from layer L + 1 on.

    Attributes:
        edit: Index of the edit.
        position: The lookup token.
        state: What leaves layer L, `(length, hidden)`.
        columns: Positions whose logits are wanted.
        labels: Tokens that shall follow them; none where the text asks what the subject is.
    """

    edit: int
    position: int
    state: Tensor
    columns: Tensor
    labels: Tensor

    @property
    def is_essence(self) -> bool:
        """Whether the text asks what the subject is, not what the edit says."""
        return not len(self.labels)


class ValueSearch:
    """Searches for the values of some edits.

    Args:
        base: The base model; the weights that it has when asked are those that the values are for.
        layer: L, the last layer that is edited; not the model's last.
        prefixes: Texts before the prompt, the first of them empty.
        settings: How to search.

    Attributes:
        n_steps: Optimizer steps taken so far.
    """

    def __init__(self, base: Base, layer: int, prefixes: Sequence[str], settings: SearchSettings) -> None:
        """Take the layers above apart."""
        self.tokenizer, self.prefixes, self.settings = base.tokenizer, prefixes, settings
        parts = (base.model, base.architecture, layer + 1)
        self.prefix = Prefix(*parts)
        self.suffix = Suffix(*parts, choose_dtype("auto", base.model), attention=choose_attention(base.model))
        self.n_steps = 0

    def __call__(self, edits: Sequence[Edit]) -> Tensor:
        """The value `z` of each edit, `(edits, hidden)`."""
        parts = [edits[start : start + EDITS_AT_ONCE] for start in range(0, len(edits), EDITS_AT_ONCE)]
        return torch.cat([self._search(self._word(part), len(part)) for part in parts])

    def _word(self, edits: Sequence[Edit]) -> list[Wording]:
        """Every edit's prompt behind each prefix, the plain prompts first, then what asks for its subject."""
        asked = [(n, look_up(self.tokenizer, edit, prefix)) for prefix in self.prefixes for n, edit in enumerate(edits)]
        essences = [(n, found) for n, edit in enumerate(edits) if (found := look_up_essence(self.tokenizer, edit))]
        states = self.prefix([lookup.encoded.tokens for _, lookup in asked + essences])
        wordings = []
        for (edit, lookup), state in zip(asked + essences, states, strict=True):
            columns, labels = lookup.encoded.columns, lookup.encoded.labels
            columns = columns if len(labels) else torch.tensor([len(state) - 1])
            wordings.append(Wording(edit, lookup.position, state, columns, labels))
        return wordings

    @torch.enable_grad()
    def _search(self, wordings: list[Wording], n_edits: int) -> Tensor:
        origin = torch.stack([one.state[one.position] for one in wordings[:n_edits]]).float()  # (edits, hidden)
        lengths = origin.norm(dim=1)
        delta = torch.zeros_like(origin, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=self.settings.learning_rate)
        essences = self._read_essences(wordings, delta.detach())
        active = torch.ones(n_edits, dtype=torch.bool, device=delta.device)
        for _ in range(self.settings.steps):
            losses = self._losses([one for one in wordings if active[one.edit]], delta, essences)
            losses = losses + self.settings.weight_decay * delta.norm(dim=1) / lengths.square()
            active &= losses.detach() >= ENOUGH
            if not active.any():
                break
            optimizer.zero_grad()
            losses[active].sum().backward()
            before = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():  # an edit that is done would be moved by momentum
                delta.copy_(torch.where(active[:, None], shorten(delta, self.settings.clamp * lengths), before))
            self.n_steps += 1
        return origin + delta.detach()

    def _losses(self, wordings: Sequence[Wording], delta: Tensor, essences: Tensor) -> Tensor:
        """What each edit's change costs, but for its length, `(edits,)`; 0 for edits without wordings."""
        logits = self._run(wordings, delta)
        labels = torch.cat([one.labels for one in wordings]).to(logits.device)
        counts = torch.tensor([len(one.labels) for one in wordings])
        owners = torch.tensor([one.edit for one in wordings]).repeat_interleave(counts).to(logits.device)
        shares = (1 / (counts * len(self.prefixes))).repeat_interleave(counts).to(logits.device)
        losses = torch.zeros(len(delta), device=logits.device)
        losses = losses.index_add(0, owners, label_loss(logits[: len(labels)], labels) * shares)
        kept = torch.tensor([one.edit for one in wordings if one.is_essence], dtype=torch.long, device=logits.device)
        if not len(kept):
            return losses
        divergence = kl_divergence(logits[len(labels) :].float().log_softmax(-1), essences[kept])
        return losses.index_add(0, kept, self.settings.kl_weight * divergence)

    @torch.no_grad()
    def _read_essences(self, wordings: Sequence[Wording], unchanged: Tensor) -> Tensor:
        """Log-probabilities of what each subject is, before the edit, `(edits, vocabulary)`; 0 where none is asked."""
        asking = [one for one in wordings if one.is_essence]
        if not asking:
            return unchanged.new_zeros(len(unchanged), 0)
        found = self._run(asking, unchanged).float().log_softmax(-1)
        owners = torch.tensor([one.edit for one in asking], device=found.device)
        return found.new_zeros(len(unchanged), found.shape[1]).index_copy(0, owners, found)

    def _run(self, wordings: Sequence[Wording], delta: Tensor) -> Tensor:
        """Logits at the wanted positions, with each edit's change at its lookup tokens, `(positions, vocabulary)`."""
        order = sorted(range(len(wordings)), key=lambda index: len(wordings[index].state))
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), ROWS_AT_ONCE):
            chosen = order[start : start + ROWS_AT_ONCE]
            logits = self._run_together([wordings[index] for index in chosen], delta)
            parts = torch.split(logits, [len(wordings[index].columns) for index in chosen])
            found |= dict(zip(chosen, parts, strict=True))
        return torch.cat([found[index] for index in range(len(wordings))])

    def _run_together(self, wordings: Sequence[Wording], delta: Tensor) -> Tensor:
        """The same in one pass, padded to the longest."""
        states = pad_sequence([one.state for one in wordings], batch_first=True)  # (rows, seq, hidden)
        rows = torch.arange(len(wordings), device=states.device)
        owners = torch.tensor([one.edit for one in wordings], device=states.device)
        positions = torch.tensor([one.position for one in wordings], device=states.device)
        changed = states.index_put((rows, positions), delta[owners].to(states.dtype), accumulate=True)
        counts = torch.tensor([len(one.columns) for one in wordings], device=states.device)
        columns = torch.cat([one.columns for one in wordings]).to(states.device)
        return self.suffix(changed, rows.repeat_interleave(counts), columns)


def shorten(vectors: Tensor, longest: Tensor) -> Tensor:
    """Vectors `(n, d)` scaled down to lengths `(n,)` where they are longer."""
    factors: Tensor = (longest / vectors.norm(dim=1)).clamp_max(1)  # a vector of no length gives infinity, so 1
    return vectors * factors[:, None]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """`KL(p ‖ q)` of each row from log-probabilities `(rows, outcomes)`, `(rows,)`."""
    divergence: Tensor = (log_p.exp() * (log_p - log_q)).sum(-1)
    return divergence
