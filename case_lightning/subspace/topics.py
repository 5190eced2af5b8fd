"""Whether a query asks of a subject what an edit says of it, where a list of common questions can tell.

Ours; see `phrasebook`.
"""

from collections.abc import Set

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.data.subjects import find_names
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.phrasebook import Phrasebook, simplify

Words = frozenset[str]


class Topics:
    """What keys and queries ask of their subjects.

    Args:
        tokenizer: The base model's; nobody else may use it meanwhile.
        keys: The edits' keys; what is added later is seen.
        phrasebook: Common questions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keys: RouterKeys, phrasebook: Phrasebook) -> None:
        """Read nothing yet."""
        self.tokenizer, self.keys, self.phrasebook = tokenizer, keys, phrasebook
        self._read: Tensor | None = None
        self._subjects: list[str] = []  # of each key
        self._words: list[Words] = []  # and all of its words
        self._asked: dict[Words, Set[int]] = {}  # what keys of these words ask, whatever their order

    def agree(self, query: Tensor, last: int, key: int) -> bool | None:
        """Whether a query asks of a key's subject what the key asks; `None` where that is not known.

        Args:
            query: Token ids, `(length,)`.
            last: The last of them that names the subject.
            key: Index of the key.
        """
        self._refresh()
        asked = self._asked.get(self._words[key])
        if not asked:
            return None
        text = self._decode(query[: last + 1])
        names = find_names(text, self._subjects[key])
        if not names:
            return None
        start, end = names[-1]
        behind = text[end:] + self._decode(query[last + 1 :])
        found = self.phrasebook.find(text[:start], behind)
        return bool(found & asked) if found else None

    def _refresh(self) -> None:
        """Read the keys again after they changed."""
        if self._read is self.keys.tokens:
            return
        lengths = self.keys.lengths.tolist()
        keys, marks = torch.split(self.keys.tokens.cpu(), lengths), torch.split(self.keys.in_subject.cpu(), lengths)
        texts = [self._decode(key) for key in keys]
        self._subjects = [self._decode(key[mark]).strip() for key, mark in zip(keys, marks, strict=True)]
        self._words = [frozenset(simplify(text)) for text in texts]
        self._asked = {}
        for text, subject, words in zip(texts, self._subjects, self._words, strict=True):
            for start, end in find_names(text, subject)[-1:]:
                found = self.phrasebook.find(text[:start], text[end:])
                self._asked[words] = self._asked.get(words, frozenset()) | found

    def _decode(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True))
