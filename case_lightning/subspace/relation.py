"""What a text asks about its subject, as the frozen model's lower layers have it.

Ours. Words tell subjects apart, but not always what is asked of them: "The mother tongue of Ann is" and "Ann's family
spoke" share not one. At a quarter of the model's depth the mean state of the tokens beside the subject, whitened over
ordinary text, is alike for both. Only the sentence that names the subject is run, by itself, so neither a conversation
around it nor a chat template changes what it asks; and only where the subject is named and the words leave it open.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from case_lightning.subspace.whitening import measure_full_whitening

RELATION_DEPTH = 0.27  # of the model: where the states are taken
PIECE = 64  # tokens of the calibration text that are run together, and most of a sentence on each side of its subject
KNOWN = 1 << 14  # texts whose directions are kept, those asked of last
ENDS = ("a.", "a?", "a!", "a\n", "a.\n", "a?\n", "a\n\n", "a:\n")  # texts whose last token ends a sentence

States = Callable[[Sequence[Tensor]], list[Tensor]]  # of texts `(length,)`, `(length, hidden)` each


class RelationSpace:
    """Whitened mean states of what texts say beside their subjects.

    Args:
        states: Runs the frozen model's lower layers on texts.
        calibration: Token ids of a text of ordinary language, `(tokens,)`.
        boundaries: Tokens that end a sentence.
    """

    def __init__(self, states: States, calibration: Tensor, boundaries: Sequence[int]) -> None:
        """Run nothing yet."""
        self.states, self.calibration, self.boundaries = states, calibration, torch.tensor(boundaries).long()
        self._known: dict[tuple[bytes, bytes], Tensor] = {}

    def __call__(self, tokens: Tensor, counted: Tensor) -> Tensor:
        """The direction of a text, a unit vector `(hidden,)`.

        Args:
            tokens: Token ids, `(length,)`.
            counted: Which of them count, boolean `(length,)`; never the first, whose state is of its own kind, nor one
                that ends a sentence; all but the first where none would be left.
        """
        tokens, counted = tokens.cpu().long(), counted.cpu().clone()
        name = tokens.numpy().tobytes(), counted.numpy().tobytes()
        found = self._known.pop(name, None)
        if found is None:
            counted &= ~torch.isin(tokens, self.boundaries)
            counted[0] = False
            mean, whiten = self.whitening
            states = (self.states([tokens])[0].float() - mean) @ whiten
            chosen = states[counted.to(states.device)] if counted.any() else states[min(1, len(states) - 1) :]
            found = functional.normalize(chosen.mean(0), dim=0)
        self._known[name] = found  # as the latest
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return found

    def cut_sentence(self, tokens: Tensor, first: int, last: int) -> slice:
        """The sentence around some tokens of a text.

        Args:
            tokens: Token ids, `(length,)`.
            first: The first of them.
            last: The last of them.
        """
        ends = torch.isin(tokens.cpu().long(), self.boundaries).nonzero()[:, 0]
        start = max(int(ends[ends < first].max()) + 1 if (ends < first).any() else 0, first - PIECE)
        end = min(int(ends[ends > last].min()) + 1 if (ends > last).any() else len(tokens), last + 1 + PIECE)
        return slice(start, end)

    @cached_property
    def whitening(self) -> tuple[Tensor, Tensor]:
        """Mean `(hidden,)` and whitening `(hidden, hidden)` of states of ordinary text."""
        pieces = torch.split(self.calibration.cpu().long(), PIECE)
        sample = torch.cat([states[1:] for states in self.states(pieces)]).double()
        mean, whiten = measure_full_whitening(sample)
        return mean.float(), whiten.float()


def find_boundaries(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a sentence or a line, and all special ones."""
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in ENDS]
    return sorted({*(tokens[-1] for tokens in encoded if len(tokens) > 1), *tokenizer.all_special_ids})
