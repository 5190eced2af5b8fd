"""The router: is a query in the scope of an edit, and of which one?

Ours; the paper's summary says only that there is one. A query is in the scope of an edit if it names the edit's
subject and asks about something alike, both measured by late interaction [1] on the frozen model's own token
embeddings, whitened so that they spread evenly in all directions. How far a token k of the edit's prompt is found in a
query Q is

    found(k, Q) = max_{q∈Q} cos(k, q)₊ .

In scope: the mean of `found` over the subject's tokens reaches the subject threshold, no single one of them falls below
`WEAKEST` (another year or another first name is another subject), and the mean over the rest of the prompt, weighted by
`w_k = ‖k‖²`, reaches the relation threshold. The squared whitened length is large for rare tokens and small for common
ones, so it weighs content above function words as an inverse document frequency does. Of several edits in scope, the
one that covers the query best, and that the query covers best, answers; of equal ones the latest, so a second edit of a
prompt replaces the first. Where an edit names no subject, its whole prompt, weighted, has to reach the mean of the two
thresholds.

Nothing but token ids is stored: statistics come from a fixed text, embeddings from the base model. Because coverage
looks for an edit's words anywhere in the query, a template or an unrelated conversation around it does not matter, and
because it reads embeddings and no hidden states, the decision is there before the first layer runs.

References:
    [1] Khattab, Zaharia: ColBERT: efficient and effective passage search via contextualized late interaction over BERT.
        SIGIR 2020.
"""

from importlib.resources import files

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.subspaces import UNEDITED

WEAKEST = 0.6  # of `found`: what a single token of a subject has to reach
ROUNDING = 1e-5  # by which a token's cosine with itself may fall short of 1
RIDGE = 0.1  # of the mean variance: keeps directions that the calibration text hardly shows from being blown up


class TokenSpace:
    """Whitened token embeddings of a frozen model.

    Args:
        embedding: The embedding table, `(vocabulary, d)`.
        calibration: Token ids of a text of ordinary language, `(tokens,)`: which directions are common.
    """

    def __init__(self, embedding: Tensor, calibration: Tensor) -> None:
        """Whiten by the tokens of the calibration text.

        Raises:
            ValueError: There are none.
        """
        if not len(calibration):
            raise ValueError(
                "the router has no calibration text; give `keys.calibrate` the token ids of "
                "`read_calibration(tokenizer)`"
            )
        self.embedding = embedding
        self.calibration = calibration
        sample = embedding[calibration.to(embedding.device)].float()
        self.mean = sample.mean(0)
        centred = sample - self.mean
        variance, directions = torch.linalg.eigh(centred.T @ centred / len(sample))
        self.whiten = directions / (variance.clamp_min(0) + RIDGE * variance.mean()).sqrt()  # (d, d)

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Directions and weights of tokens.

        Args:
            tokens: Token ids, `(n,)`.

        Returns:
            Unit vectors `(n, d)` and weights `(n,)`.
        """
        vectors = (self.embedding[tokens.to(self.embedding.device).long()].float() - self.mean) @ self.whiten
        return functional.normalize(vectors, dim=-1), vectors.square().sum(-1)


def read_calibration(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token ids of the fixed calibration text that the package carries, `(tokens,)`."""
    lines = (files("case_lightning.subspace") / "calibration.txt").read_text(encoding="utf-8").splitlines()
    return torch.tensor([token for line in lines for token in tokenizer(line, add_special_tokens=False).input_ids])


class Router:
    """Decides the route of each query.

    Args:
        space: The frozen model's token space.
        keys: The edits' keys; what is added later is seen.
        subject_threshold: Least mean of `found` over an edit's subject.
        relation_threshold: Least weighted mean over the rest of its prompt.
    """

    def __init__(
        self, space: TokenSpace, keys: RouterKeys, subject_threshold: float, relation_threshold: float
    ) -> None:
        """Look nothing up yet."""
        self.space = space
        self.keys = keys
        self.thresholds = (subject_threshold, relation_threshold)
        self._indexed: Tensor | None = None

    def route(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Route a batch of queries.

        Args:
            tokens: Token ids, `(batch, seq)`.
            mask: 1 where a token counts, `(batch, seq)`; by default everywhere.

        Returns:
            The subspace of each row or `UNEDITED`, `(batch,)`.
        """
        nearest = self.match(tokens, mask)
        subspaces = self.keys.subspaces.to(nearest.device).long()
        routes = subspaces[nearest.clamp_min(0)] if len(self.keys) else nearest
        return torch.where(nearest >= 0, routes, UNEDITED)

    def match(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The edit in whose scope each query is, as the index of its key, or −1; `(batch,)`."""
        keep = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        found = [self._match_row(row[used]) for row, used in zip(tokens, keep, strict=True)]
        return torch.tensor(found, dtype=torch.long, device=tokens.device)

    def _match_row(self, query: Tensor) -> int:
        if not len(self.keys) or not len(query):
            return -1
        self._refresh()
        vectors, weights = self.space(_unique(query)[0])
        similarity = (self._vectors @ vectors.T).clamp_min(0)  # (unique key tokens, unique query tokens)
        best = similarity.amax(1)[self._slots]  # (key tokens,)
        relation = self._average(best, ~self._in_subject)
        in_scope = self._names_subject(best) & (relation >= self._least_relation - ROUNDING)
        candidates: list[int] = in_scope.nonzero().squeeze(1).flip(0).tolist()  # the latest first: it wins a tie
        if len(candidates) < 2:
            return candidates[0] if candidates else -1
        whole = self._average(best, torch.ones_like(self._in_subject))
        back = [self._cover_query(similarity, weights, key) for key in candidates]
        return max(zip(candidates, back, strict=True), key=lambda pair: round(whole[pair[0]].item() + pair[1], 5))[0]

    def _names_subject(self, best: Tensor) -> Tensor:
        """Whether the query names each key's subject, `(keys,)`; true of a key without one."""
        segments, found = self._segments[self._in_subject], best[self._in_subject]
        count = best.new_zeros(len(self.keys)).index_add_(0, segments, torch.ones_like(found))
        mean = best.new_zeros(len(self.keys)).index_add_(0, segments, found) / count.clamp_min(1)
        weakest = best.new_ones(len(self.keys)).scatter_reduce_(0, segments, found, "amin")
        least = self.thresholds[0] - ROUNDING
        return (count == 0) | ((mean >= least) & (weakest >= WEAKEST))

    def _cover_query(self, similarity: Tensor, weights: Tensor, key: int) -> float:
        """How much of the query one key covers."""
        best = similarity[self._slots[self._segments == key]].amax(0)
        return float((best * weights).sum() / weights.sum())

    def _average(self, best: Tensor, where: Tensor) -> Tensor:
        """Weighted mean over each key's tokens in `where`; 1 for a key that has none there. `(keys,)`."""
        weights = self._weights * where
        sums = best.new_zeros(2, len(self.keys)).index_add_(1, self._segments, torch.stack([best * weights, weights]))
        return torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1e-12), 1.0)

    def _refresh(self) -> None:
        """Look the keys' embeddings up again after keys were added."""
        if self._indexed is self.keys.tokens:
            return
        device = self.space.embedding.device
        lengths = self.keys.lengths.to(device).long()
        unique, self._slots = _unique(self.keys.tokens.to(device))
        self._vectors, weights = self.space(unique)
        self._weights = weights[self._slots]
        self._segments = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        self._in_subject = self.keys.in_subject.to(device)
        named = torch.zeros(len(lengths), device=device).index_add_(0, self._segments, self._in_subject.float()) > 0
        self._least_relation = torch.where(named, self.thresholds[1], sum(self.thresholds) / 2)
        self._indexed = self.keys.tokens


def _unique(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct tokens and, for each token, which of them it is."""
    distinct, places = torch.unique(tokens, return_inverse=True)
    return distinct, places
