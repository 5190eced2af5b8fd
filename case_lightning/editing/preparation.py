"""From an edit to what its fit sees: wordings, their tokens, and what the frozen layers make of them, run once."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from weakref import WeakValueDictionary

from case_lightning.base import Base
from case_lightning.base.suffix import Prefix, Suffix
from case_lightning.config import RunSettings
from case_lightning.data import Edit, keep_latest
from case_lightning.editing.batches import PreparedEdit, PreparedText
from case_lightning.editing.encoding import Encoded, encode, encode_chat, encode_prompt, mark_start
from case_lightning.editing.variation import find_rivals, vary_prompt
from case_lightning.subspace import CaseConfig
from case_lightning.subspace.phrasebook import read_phrasebook

# Texts that are in use somewhere, by all that were run with them and their place among these: what is run in other
# company comes out with other last bits.
Kept = WeakValueDictionary[tuple[tuple[object, ...], int], PreparedText]

SAMPLE = "The capital of Freedonia is"  # what a model is tried on


class Preparation:
    """Encodes edits and their variants, and runs the frozen layers on all of them once.

    What the model will be asked, prompt and chat, goes through them in the base's own dtype: a fit of one edit learns
    the rounding of another with it. Wordings made by rule are rough anyway.

    Args:
        base: The frozen base model.
        settings: How to edit.
        config: The adapter's.
        prefixes: What runs the layers below the edited one, in the base's own dtype and in the fit's.
        suffixes: What runs the others, likewise.
        kept: What another preparation of the same run has prepared and is still in use; not run again.
    """

    def __init__(
        self,
        base: Base,
        settings: RunSettings,
        config: CaseConfig,
        prefixes: tuple[Prefix, Prefix],
        suffixes: tuple[Suffix, Suffix],
        kept: Kept | None = None,
    ) -> None:
        """Try whether the positions before an edit acts can be run once, too."""
        self.base, self.settings, self.config = base, settings, config
        self.kept = Kept() if kept is None else kept
        self.exact, self.fast = zip(prefixes, suffixes, strict=True)
        (sample,) = prefixes[0]([encode_prompt(base.tokenizer, SAMPLE)])
        self.keeps_past = config.from_subject and all(suffix.can_keep_past(sample) for suffix in suffixes)

    def __call__(self, edits: Sequence[Edit], varied: bool = True, others: Sequence[Edit] = ()) -> list[PreparedEdit]:
        """Prepare edits.

        Args:
            edits: At least one.
            varied: Whether with other wordings.
            others: Edits that are not to be mistaken for these.
        """
        known = keep_latest([*others, *edits])
        prompts = [self._encode(edit.prompt, edit) for edit in edits]
        chats = [self._encode_chats(edit) for edit in edits]
        wordings = [self._encode_variants(edit, known) if varied else [] for edit in edits]
        exact = iter(self._run(*self.exact, [*prompts, *chain.from_iterable(chats)]))
        texts = list(islice(exact, len(edits)))
        fast = iter(self._run(*self.fast, list(chain.from_iterable(wordings))))
        return [
            PreparedEdit(text, tuple(islice(fast, len(own))), chats=tuple(islice(exact, len(chat))))
            for text, own, chat in zip(texts, wordings, chats, strict=True)
        ]

    def renew(
        self, prepared: Sequence[PreparedEdit], edits: Sequence[Edit], others: Sequence[Edit]
    ) -> list[PreparedEdit]:
        """Prepared edits with the wordings that they have now; where these are as before, nothing is run again.

        Args:
            prepared: What they were.
            edits: The edits.
            others: Edits that are not to be mistaken for them.
        """
        known = keep_latest(others)
        renewed = list(prepared)
        for place, (past, edit) in enumerate(zip(prepared, edits, strict=True)):
            wordings = self._encode_variants(edit, known)
            if [one.tokens.tolist() for one in wordings] != [one.encoded.tokens.tolist() for one in past.variants]:
                renewed[place] = replace(past, variants=tuple(self._run(*self.fast, wordings)))
        return renewed

    def _run(self, prefix: Prefix, suffix: Suffix, encoded: Sequence[Encoded]) -> list[PreparedText]:
        group = (prefix is self.exact[0], *((tuple(one.tokens.tolist()), one.n_prompt, one.start) for one in encoded))
        places = [(group, place) for place in range(len(encoded))]
        known = [text for text in map(self.kept.get, places) if text]
        if len(known) == len(places):
            return known
        texts = self._run_layers(prefix, suffix, encoded)
        self.kept.update(zip(places, texts, strict=True))
        return texts

    def _run_layers(self, prefix: Prefix, suffix: Suffix, encoded: Sequence[Encoded]) -> list[PreparedText]:
        states = prefix([one.tokens for one in encoded])
        if not self.keeps_past or not states:
            return [PreparedText(one, state) for one, state in zip(encoded, states, strict=True)]
        pasts = suffix.read_past([state[: one.start] for one, state in zip(encoded, states, strict=True)])
        parts = zip(encoded, states, pasts, strict=True)
        return [PreparedText(one, state[one.start :].clone(), past) for one, state, past in parts]

    def _encode(self, prompt: str, edit: Edit) -> Encoded:
        return self._mark(encode(self.base.tokenizer, prompt, edit.target, self.settings.training.append_end), edit)

    def _encode_variants(self, edit: Edit, known: Sequence[Edit]) -> list[Encoded]:
        rivals = find_rivals(edit, known)
        phrasebook = read_phrasebook() if self.settings.subspace.phrasebook else None
        wordings = vary_prompt(edit, self.settings.training.n_variants, self.settings.seed, rivals, phrasebook)
        return self._keep_fitting([self._encode(wording, edit) for wording in wordings])

    def _encode_chats(self, edit: Edit) -> list[Encoded]:
        if not self.settings.training.chat:
            return []
        chat = encode_chat(self.base.tokenizer, edit.prompt, edit.target, self.settings.training.append_end)
        return self._keep_fitting([self._mark(chat, edit)])

    def _keep_fitting(self, encoded: Sequence[Encoded]) -> list[Encoded]:
        """Those that the model has room for."""
        return [one for one in encoded if len(one.tokens) <= self.base.context_length]

    def _mark(self, encoded: Encoded, edit: Edit) -> Encoded:
        return mark_start(self.base.tokenizer, encoded, edit.subject) if self.config.from_subject else encoded
