"""Misspelt names: a word of an edited subject in a query that has it one slip of the keyboard away.

Ours. To the router another token is another word, so "Dainelle Darrieux" names nobody. A slip [1] is here two
neighbours swapped, or a letter too few or too many. (A letter for another is one as well, but so do names differ:
Petersen and Pedersen.) A word of a query is taken for one of an edited subject where little speaks for a word of its
own:

- it is one slip away, inside of the word: it begins and ends as the other does ("Paula" is not "Paul");
- it has at least `SHORTEST` letters, and `LONGEST` at most, of a script that has capitals, and is no Roman number;
- it is neither a word of any edit nor a single token, as the most common words are;
- another word of the same subject, of `VOUCHING` letters or more, stands in the query as it should be. A word that is a
  subject alone has at least `ALONE` letters instead ("Triana" may well not be "Tirana").

Which words are one slip away is looked up by what is left of them with a letter less [2], whatever the number of edits.

References:
    [1] Damerau: A technique for computer detection and correction of spelling errors. Communications of the ACM 7(3),
        1964.
    [2] Garbe: SymSpell, symmetric delete spelling correction. https://github.com/wolfgarbe/SymSpell, 2012.
"""

import re
from collections import defaultdict
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.subspace.keys import RouterKeys

SHORTEST, LONGEST = 5, 64  # letters of a word
VOUCHING, ALONE = 4, 9
WORD = re.compile(r"[^\W\d_]+")
NUMBER = re.compile(r"[ivxlcdm]+")


class _Name(NamedTuple):
    """A word of a subject.

    Attributes:
        word: In lower case.
        form: As the subject has it.
        beside: The subject's other words that may vouch for it, in lower case.
    """

    word: str
    form: str
    beside: frozenset[str]


class Spelling:
    """Corrects words of queries to words of edited subjects.

    Args:
        tokenizer: The base model's; nobody else may use it meanwhile.
        keys: The edits' keys; what is added later is seen.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keys: RouterKeys) -> None:
        """Read nothing yet."""
        self.tokenizer, self.keys = tokenizer, keys
        self._special = set(tokenizer.all_special_ids)
        self._read: Tensor | None = None
        self._words: set[str] = set()  # of all keys, in lower case
        self._names: dict[str, set[_Name]] = {}  # by what a slip may leave of them

    def correct(self, query: Tensor) -> Tensor | None:
        """The token ids of a query with its misspelt names corrected, `(length,)`; `None` where there are none.

        Args:
            query: Token ids, `(length,)`.
        """
        self.refresh()
        parts = [(is_special, list(part)) for is_special, part in groupby(query.tolist(), self._special.__contains__)]
        texts = [None if is_special else str(self.tokenizer.decode(part)) for is_special, part in parts]
        asked = frozenset(word.lower() for text in texts if text for word in WORD.findall(text))
        corrected = [text and WORD.sub(lambda found: self._correct_word(found[0], asked), text) for text in texts]
        if corrected == texts:
            return None
        tokens = [
            part if text is None else self._encode(text) for text, (_, part) in zip(corrected, parts, strict=True)
        ]
        return torch.tensor([token for part in tokens for token in part], device=query.device)

    def _correct_word(self, word: str, asked: frozenset[str]) -> str:
        """A word of a query, or what it is meant for; `asked` are all words of the query in lower case."""
        lower = word.lower()
        if not is_correctable(lower) or lower in self._words:
            return word
        near = {name for rest in shorten(lower) for name in self._names.get(rest, ()) if is_slip(lower, name.word)}
        meant = sorted(
            (name.word, name.form)
            for name in near
            if name.beside & asked or (len(name.word) >= ALONE and not name.beside)
        )
        if not meant or self._is_known(word):
            return word
        return meant[0][word != lower]

    def _is_known(self, word: str) -> bool:
        """Whether some way to write a word is a single token."""
        spelled = (before + form for before in ("", " ") for form in (word, word.lower(), word.capitalize()))
        return any(len(self._encode(form)) == 1 for form in spelled)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def refresh(self) -> None:
        """Read the keys again after they changed; a query does so by itself."""
        if self._read is self.keys.tokens:
            return
        keys = self.keys.split()
        texts = self.tokenizer.batch_decode([tokens.tolist() for tokens, _ in keys])
        subjects = self.tokenizer.batch_decode([tokens[marks].tolist() for tokens, marks in keys])
        self._words = {word.lower() for text in texts for word in WORD.findall(text)}
        self._names = defaultdict(set)
        for subject in set(subjects):
            for name in read_names(subject):
                for rest in shorten(name.word):
                    self._names[rest].add(name)
        self._read = self.keys.tokens


def read_names(subject: str) -> list[_Name]:
    """The words of a subject that a query may misspell."""
    words = {form.lower(): form for form in WORD.findall(subject)}
    return [
        _Name(word, form, frozenset(other for other in words if other != word and len(other) >= VOUCHING))
        for word, form in words.items()
        if is_correctable(word)
    ]


def is_correctable(word: str) -> bool:
    """Whether a word in lower case is long enough, and of letters that tell names apart one by one."""
    return SHORTEST <= len(word) <= LONGEST and not NUMBER.fullmatch(word) and all(one != one.upper() for one in word)


def shorten(word: str) -> set[str]:
    """A word, and what is left of it without one of its inner letters."""
    return {word} | {word[:place] + word[place + 1 :] for place in range(1, len(word) - 1)}


def is_slip(word: str, name: str) -> bool:
    """Whether a word is one slip away from a name, inside of it: a letter less or more, or two neighbours swapped."""
    if word[0] != name[0] or word[-1] != name[-1] or word == name:
        return False
    if len(word) != len(name):
        longer, shorter = sorted((word, name), key=len, reverse=True)
        return shorter in shorten(longer)
    first, *more = (place for place in range(len(word)) if word[place] != name[place])
    return more == [first + 1] and word[first : first + 2] == name[first : first + 2][::-1]
