"""Misspelt names: the words of edited subjects in a query that has one of them one slip of the keyboard away.

Ours. To the router another token is another word, so "Dainelle Darrieux" names nobody. A slip [1] is one letter left
out, added or exchanged, or two neighbours swapped, and most are one of these. A word of a query is taken for a word of
an edited subject that is one slip away where little speaks for a word of its own: it has at least `SHORTEST` letters,
begins and ends as the other does (so "Paula" is not "Paul", nor "Christina" "Christian"), is no word of any edit, and
no single token, as common words and names are ("Martin" is not "Marin"). A subject of one word must be longer,
for no other word vouches for it ("Triana" may well not be "Tirana"). Numbers are never corrected.

Which words are one slip away is looked up by what is left of them with a letter less [2], whatever the number of edits.

References:
    [1] Damerau: A technique for computer detection and correction of spelling errors. Communications of the ACM 7(3),
        1964.
    [2] Garbe: SymSpell, symmetric delete spelling correction. https://github.com/wolfgarbe/SymSpell, 2012.
"""

import re
from collections import defaultdict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.subspace.keys import RouterKeys

SHORTEST, ALONE = 5, 9  # letters of a word of a subject, and of one that is a subject alone
WORD = re.compile(r"[^\W\d_]+")


class Spelling:
    """Corrects words of queries to words of edited subjects.

    Args:
        tokenizer: The base model's.
        keys: The edits' keys; what is added later is seen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keys: RouterKeys) -> None:
        """Read nothing yet."""
        self.tokenizer, self.keys = tokenizer, keys
        self._read: Tensor | None = None
        self._words: set[str] = set()  # of all keys, in lower case
        self._forms: dict[str, str] = {}  # words of subjects by their lower case
        self._names: dict[str, list[str]] = {}  # the same words by what a slip may leave of them

    def correct(self, query: Tensor) -> Tensor | None:
        """The token ids of a query with its misspelt names corrected, `(length,)`; `None` where there are none.

        Args:
            query: Token ids, `(length,)`.
        """
        self._refresh()
        text = str(self.tokenizer.decode(query))
        corrected = WORD.sub(lambda found: self._correct_word(found[0]), text)
        if corrected == text:
            return None
        return torch.tensor(self.tokenizer(corrected, add_special_tokens=False).input_ids, device=query.device)

    def _correct_word(self, word: str) -> str:
        if len(word) < SHORTEST or word.lower() in self._words:
            return word
        near = {name for rest in shorten(word.lower()) for name in self._names.get(rest, ())}
        likely = sorted(name for name in near if is_slip(word.lower(), name))
        if not likely or self._is_known(word):
            return word
        return likely[0] if word.islower() else self._forms[likely[0]]

    def _is_known(self, word: str) -> bool:
        """Whether some way to write a word is a single token."""
        spelled = (before + form for before in ("", " ") for form in (word, word.lower(), word.capitalize()))
        return any(len(self.tokenizer.tokenize(form)) == 1 for form in spelled)

    def _refresh(self) -> None:
        """Read the keys again after they changed."""
        if self._read is self.keys.tokens:
            return
        ends = self.keys.lengths.cumsum(0).tolist()
        tokens, marks = self.keys.tokens.tolist(), self.keys.in_subject.tolist()
        starts = [0, *ends[:-1]]
        texts = self.tokenizer.batch_decode([tokens[start:end] for start, end in zip(starts, ends, strict=True)])
        subjects = self.tokenizer.batch_decode(
            [[tokens[i] for i in range(start, end) if marks[i]] for start, end in zip(starts, ends, strict=True)]
        )
        self._words = {word.lower() for text in texts for word in WORD.findall(text)}
        parts = [WORD.findall(subject) for subject in subjects]
        named = [word for words in parts for word in words if len(word) >= (SHORTEST if len(words) > 1 else ALONE)]
        self._forms = {word.lower(): word for word in sorted(named, reverse=True)}  # with capitals, where it has any
        self._names = defaultdict(list)
        for name in self._forms:
            for rest in shorten(name):
                self._names[rest].append(name)
        self._read = self.keys.tokens


def shorten(word: str) -> set[str]:
    """A word, and what is left of it without one of its inner letters."""
    return {word} | {word[:place] + word[place + 1 :] for place in range(1, len(word) - 1)}


def is_slip(word: str, name: str) -> bool:
    """Whether a word is one slip away from a name, inside of it: a letter less, more or other, or two swapped."""
    if word[0] != name[0] or word[-1] != name[-1] or word == name:
        return False
    if len(word) != len(name):
        longer, shorter = sorted((word, name), key=len, reverse=True)
        return shorter in shorten(longer)
    others = [place for place in range(len(word)) if word[place] != name[place]]
    first, last = others[0], others[-1]
    return first == last or (last == first + 1 and word[first] + word[last] == name[last] + name[first])
