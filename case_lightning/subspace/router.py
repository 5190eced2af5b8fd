"""The router: is a query in the scope of an edit, and of which one?

Ours; the paper's summary says only that there is one. A query is in the scope of an edit if it names the edit's
subject and asks about something alike, measured by late interaction [1] on the frozen model's own token embeddings,
whitened so that they spread evenly in all directions. How far a token k of the edit's prompt is found in a
query Q is

    found(k, Q) = max_{q∈Q} cos(k, q)₊ .

In scope: the mean of `found` over the subject's tokens reaches the subject threshold, no single one of them falls below
`WEAKEST` (another first name is another subject), all within one stretch of the query (a long text has every word
somewhere), its numbers are there (see `numbers`), and it asks the same of the subject. How much of that the words tell
is the mean of `found` over the rest of the prompt, weighted by `w_k = ‖k‖²` and sought in what the query says beside
the subject. The squared whitened length is large for rare tokens and small for common ones, so it weighs content above
function words as an inverse document frequency does. Where a list of common questions has both prompts, it alone tells
(see `phrasebook`). Else half of the words make it certain. With fewer the cosine of what both ask by the model's lower
layers (see `relation`), with half of the words' share on top, has to reach the relation threshold; where the adapter
has no relation layer, the words' share alone.

Of several edits in scope, the one that covers the query best, and that the query covers best, answers; of equal ones
the latest, so a second edit of a prompt replaces the first. A prompt that is its subject alone has to be named in
hardly more tokens than it has. Where an edit names no subject, `WHOLE` of its prompt has to be found within
one stretch, weighted.

Nothing but token ids is stored: statistics come from a fixed text, embeddings and states from the base model. Because
coverage looks for an edit's words anywhere in the query, a template or an unrelated conversation around it does not
matter. A query that names no edited subject, as nearly all do, is decided from its tokens alone; it is looked at
once more where a word of it is a slip away from a subject's (see `spelling`).

An edit acts on the whole query or, with `from_subject`, from the last token on of its subject's name, the last of
several: what stands before answers as in the unedited model. Where an edit names no subject, it acts on all.

References:
    [1] Khattab, Zaharia: ColBERT: efficient and effective passage search via contextualized late interaction over BERT.
        SIGIR 2020.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from case_lightning.errors import ConfigError
from case_lightning.subspace.held import Routes
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.numbers import Numbers
from case_lightning.subspace.relation import RelationSpace
from case_lightning.subspace.spelling import Spelling
from case_lightning.subspace.subspaces import UNEDITED
from case_lightning.subspace.topics import Topics
from case_lightning.subspace.whitening import measure_full_whitening

WEAKEST = 0.6  # of `found`: what a single token of a subject has to reach
SLACK = 2  # tokens that may stand between those of a subject, where there is nothing else to go by
SPREAD = 16  # and where there is: as many as a question in another order has
WHOLE = 0.45  # of a prompt without a subject: what a query has to cover
CERTAIN = 0.5  # of the words of what is asked: then no state is looked at
WORDS, MOST = 0.5, 0.3  # how much words weigh beside the cosine of states, and from where on more of them say no more
ROUNDING = 1e-5  # by which a token's cosine with itself may fall short of 1


class _Match(NamedTuple):
    """A key whose subject a query names.

    Attributes:
        closeness: How well they cover each other.
        key: Index of the key; of equally close ones the latest answers.
        relation: How far the query covers what the key says beside its subject, 0 to 1.
        subject: Positions in the query that name the subject.
        start: Where the name ends.
    """

    closeness: float
    key: int
    relation: float
    subject: Tensor
    start: int


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
        self.mean, self.whiten = measure_full_whitening(sample)

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
    encoded = (tokenizer(line, add_special_tokens=False).input_ids for line in read_ordinary_lines())
    return torch.tensor([token for line in encoded for token in line])


def read_ordinary_lines() -> list[str]:
    """Sentences, questions and beginnings of sentences about nothing in particular."""
    return (files("case_lightning.subspace") / "calibration.txt").read_text(encoding="utf-8").splitlines()


class Router:
    """Decides the route of each query.

    Args:
        space: The frozen model's token space.
        keys: The edits' keys; what is added later is seen.
        subject_threshold: Least mean of `found` over an edit's subject.
        relation_threshold: Least likeness of what key and query ask.
        relations: What texts ask, by the model's states; without it, words alone tell.
        spelling: Corrects misspelt names; without it, they are other names.
        topics: Tells common questions apart; without it, words and states alone tell.
        numbers: Tells numbers apart; without it, they are tokens like others.
        from_subject: Whether an edit acts from where its subject is named on, rather than from the beginning.
    """

    def __init__(
        self,
        space: TokenSpace,
        keys: RouterKeys,
        subject_threshold: float,
        relation_threshold: float,
        relations: RelationSpace | None = None,
        spelling: Spelling | None = None,
        topics: Topics | None = None,
        numbers: Numbers | None = None,
        from_subject: bool = False,
    ) -> None:
        """Look nothing up yet."""
        self.from_subject = from_subject
        self.space = space
        self.relations = relations
        self.spelling = spelling
        self.topics = topics
        self.numbers = numbers
        self.keys = keys
        self.thresholds = (subject_threshold, relation_threshold)
        self._indexed: Tensor | None = None

    def warm_up(self) -> None:
        """Do now all that the first query would otherwise wait for."""
        self._refresh()
        for part in (self.spelling, self.topics):
            if part:
                part.refresh()
        if self.relations:
            _ = self.relations.whitening

    def route(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Route a batch of queries.

        Args:
            tokens: Token ids, `(batch, seq)`.
            mask: 1 where a token counts, `(batch, seq)`; by default everywhere.

        Returns:
            The subspace of each row or `UNEDITED`, `(batch,)`.
        """
        return self.locate(tokens, mask).subspaces

    def locate(self, tokens: Tensor, mask: Tensor | None = None) -> Routes:
        """Route a batch of queries, and tell from which column on each is edited; arguments as of `route`."""
        nearest, starts = self._match_rows(tokens, mask)
        subspaces = self.keys.subspaces.to(nearest.device).long()
        routes = subspaces[nearest.clamp_min(0)] if len(self.keys) else nearest
        return Routes(
            torch.where(nearest >= 0, routes, UNEDITED), starts if self.from_subject else torch.zeros_like(starts)
        )

    def locate_each(self, prompts: Sequence[Tensor]) -> Routes:
        """The same for prompts of any length, each alone, `(length,)`."""
        located = [self.locate(prompt[None]) for prompt in prompts]
        return Routes(*(torch.cat(part) for part in zip(*located, strict=True)))

    def match(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The edit in whose scope each query is, as the index of its key, or −1; `(batch,)`."""
        return self._match_rows(tokens, mask)[0]

    def _match_rows(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Key of each row's edit and the column by which its subject is named, `(batch,)` each."""
        keep = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        keys, starts = tokens.new_full((len(tokens),), -1), tokens.new_zeros(len(tokens))
        for row, used in enumerate(keep):
            columns = used.nonzero()[:, 0]
            if len(self.keys) and len(columns):
                keys[row], place = self._match_row(tokens[row, columns])
                starts[row] = columns[place]
        return keys, starts

    def _match_row(self, query: Tensor) -> tuple[int, int]:
        self._refresh()
        key, start = self._match_spelled(query)
        corrected = self.spelling.correct(query) if key < 0 and self.spelling else None
        if corrected is None:
            return key, start
        key, start = self._match_spelled(corrected)
        return key, max(start + len(query) - len(corrected), 0)  # behind the name both are the same

    def _match_spelled(self, query: Tensor) -> tuple[int, int]:
        distinct, places = _unique(query)
        vectors, weights = self.space(distinct)
        similarity = (self._vectors @ vectors.T).clamp_min(0)  # (unique key tokens, unique query tokens)
        candidates = self._find_candidates(similarity.amax(1)[self._slots]).nonzero().squeeze(1).tolist()
        matches = [self._compare(similarity, weights, query, places, key) for key in candidates]
        for match in sorted((one for one in matches if one), key=lambda one: one[:2], reverse=True):
            if self._asks_the_same(query, match):
                return match.key, match.start
        return -1, 0

    def _compare(
        self, similarity: Tensor, query_weights: Tensor, query: Tensor, query_places: Tensor, key: int
    ) -> "_Match | None":
        """How a query that may name a key's subject matches it; `None` where it does not name it."""
        own = self._own(key)
        places, weights, in_subject = self._slots[own], self._weights[own], self._in_subject[own]
        found = similarity[places]  # (key tokens, unique query tokens)
        closeness = round(_average(found.amax(1), weights) + _average(found.amax(0), query_weights), 5)
        if not in_subject.any():
            width = min(len(places) + SPREAD, len(query))
            stretches = found[:, query_places].unfold(1, width, 1).amax(-1)  # (key tokens, stretches)
            if (weights @ stretches).max() < (WHOLE - ROUNDING) * weights.sum():
                return None
            return _Match(closeness, key, 1.0, found.new_zeros(0), 0)
        named = found[in_subject][:, query_places]  # (subject, query)
        stretch = self._find_stretch(named, SLACK if in_subject.all() else SPREAD)
        if stretch is None:
            return None
        if self.numbers and not self.numbers.agree(query, stretch, self.keys.tokens[own], self.keys.in_subject[own]):
            return None
        # what is asked is what key and query say beside the subject
        vectors = self._vectors[places]
        beside_in_key = (vectors[~in_subject] @ vectors[in_subject].T).amax(1) < WEAKEST - ROUNDING
        beside_in_query = found[in_subject].amax(0) < WEAKEST
        asked = (found[~in_subject] * beside_in_query).amax(1)
        at = (named.amax(0)[stretch] >= WEAKEST).nonzero()[:, 0] + stretch.start
        relation = _average(asked, weights[~in_subject] * beside_in_key)
        return _Match(closeness, key, relation, at, _find_end(named))

    def _asks_the_same(self, query: Tensor, match: "_Match") -> bool:
        """Whether a query that names a key's subject asks of it what the key asks."""
        if self.topics and len(match.subject):
            agree = self.topics.agree(query, int(match.subject[-1]), match.key)
            if agree is not None:
                return agree
        threshold = self.thresholds[1] - ROUNDING
        if self.relations is None or not len(match.subject):
            return match.relation >= threshold
        if match.relation >= CERTAIN - ROUNDING:
            return True
        own = self._own(match.key)
        sentence = self.relations.cut_sentence(query, int(match.subject[0]), int(match.subject[-1]))
        beside = torch.ones_like(query, dtype=torch.bool)
        beside[match.subject] = False
        asked = self.relations(self.keys.tokens[own], ~self.keys.in_subject[own])
        alike = asked @ self.relations(query[sentence], beside[sentence])
        return float(alike) + WORDS * min(match.relation, MOST) >= threshold

    def _own(self, key: int) -> slice:
        """Where a key's tokens are."""
        return slice(self._ends[key] - self._lengths[key], self._ends[key])

    def _find_stretch(self, found: Tensor, slack: int) -> slice | None:
        """The last stretch of a query, so much longer than a subject, that names it; `found` is `(subject, query)`."""
        width = min(len(found) + slack, found.shape[1])
        stretches = found.unfold(1, width, 1).amax(-1)  # (subject, stretches)
        named = (stretches.mean(0) >= self.thresholds[0] - ROUNDING) & (stretches.amin(0) >= WEAKEST)
        return slice(int(named.nonzero()[-1]), int(named.nonzero()[-1]) + width) if named.any() else None

    def _find_candidates(self, best: Tensor) -> Tensor:
        """Whether the query names each key's subject or, where that has none, says what it says; `(keys,)`."""
        segments, found = self._segments[self._in_subject], best[self._in_subject]
        count = best.new_zeros(len(self.keys)).index_add_(0, segments, torch.ones_like(found))
        mean = best.new_zeros(len(self.keys)).index_add_(0, segments, found) / count.clamp_min(1)
        weakest = best.new_ones(len(self.keys)).scatter_reduce_(0, segments, found, "amin")
        sums = best.new_zeros(2, len(self.keys))
        sums.index_add_(1, self._segments, torch.stack([best * self._weights, self._weights]))
        whole = torch.where(sums[1] > 0, sums[0] / sums[1].clamp_min(1e-12), 1.0)
        named = (mean >= self.thresholds[0] - ROUNDING) & (weakest >= WEAKEST)
        return torch.where(count > 0, named, whole >= WHOLE - ROUNDING)

    def _refresh(self) -> None:
        """Look the keys' embeddings up again after keys were added."""
        if self._indexed is self.keys.tokens:
            return
        device = self.space.embedding.device
        lengths = self.keys.lengths.to(device).long()
        self._lengths, self._ends = lengths.tolist(), lengths.cumsum(0).tolist()
        unique, self._slots = _unique(self.keys.tokens.to(device))
        wrong = unique[(unique < 0) | (unique >= len(self.space.embedding))]
        if len(wrong):
            raise ConfigError(
                f"keys.tokens: expected tokens of the base model's {len(self.space.embedding)}, found {wrong[0]}; "
                f"restore the file from a copy"
            )
        self._vectors, weights = self.space(unique)
        self._weights = weights[self._slots]
        self._segments = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        self._in_subject = self.keys.in_subject.to(device)
        self._indexed = self.keys.tokens


def _find_end(found: Tensor) -> int:
    """Where a query's name for a subject ends: the last that is as like it as any, word for word or else in any order.

    Args:
        found: Likeness of the subject's tokens to the query's, `(subject, query)`.
    """
    best = found >= found.amax(1, keepdim=True) - ROUNDING
    length, width = found.shape
    if length <= width:
        in_order = torch.stack([row[place : width - length + 1 + place] for place, row in enumerate(best)]).all(0)
        if in_order.any():
            return int(in_order.nonzero()[-1]) + length - 1
    columns = torch.arange(width, device=found.device)
    latest = torch.where(best, columns, -width).cummax(1).values  # of each token so far
    closest = (columns - latest.amin(0)).flip(0).argmin()  # the last of the shortest stretches
    return width - 1 - int(closest)


def _average(values: Tensor, weights: Tensor) -> float:
    """Weighted mean; 1 where nothing has weight."""
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else 1.0


def _unique(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct tokens and, for each token, which of them it is."""
    distinct, places = torch.unique(tokens, return_inverse=True)
    return distinct, places
