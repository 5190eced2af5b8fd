"""Whether a query says the numbers that an edit says: another year is another event.

Ours. Many tokenizers cut numbers into single digits, which look alike to a router in any order: by its tokens "2002"
says all that "2022" does. So numbers are compared as a reader sees them. Those in a subject's name have to stand where
the query names it. Of others in the edit's prompt one has to stand somewhere in the query, unless it says no number
near the subject but the subject's own.
"""

import re

from torch import Tensor
from transformers import PreTrainedTokenizerBase

THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")


class Numbers:
    """Compares the numbers of queries and keys.

    Args:
        tokenizer: The base model's; nobody else may use it meanwhile.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Store the tokenizer."""
        self.tokenizer = tokenizer

    def agree(self, query: Tensor, named: slice, key: Tensor, in_subject: Tensor) -> bool:
        """Whether a query says a key's numbers.

        Args:
            query: Token ids, `(length,)`.
            named: The stretch of it that names the key's subject.
            key: Token ids of the key, `(key length,)`.
            in_subject: Which of them are the subject's, boolean `(key length,)`.
        """
        own = self._find(key)
        if not own:
            return True
        subject = self._find(key[in_subject])
        near = self._find(self._widen(query, named))
        if not subject <= near:
            return False
        beside = own - subject
        return not beside or not near - subject or bool(beside & self._find(query))

    def _find(self, tokens: Tensor) -> set[str]:
        return set(re.findall(r"\d+", THOUSANDS.sub("", self._decode(tokens))))

    def _widen(self, query: Tensor, part: slice) -> Tensor:
        """A part of a query with the whole of the numbers at its ends."""
        start, stop = part.start, part.stop
        while start > 0 and self._is_one_number(query[start - 1 : start + 1]):
            start -= 1
        while stop < len(query) and self._is_one_number(query[stop - 1 : stop + 1]):
            stop += 1
        return query[start:stop]

    def _is_one_number(self, pair: Tensor) -> bool:
        """Whether a number goes on from one token to the next."""
        text, behind = self._decode(pair), self._decode(pair[1:]).lstrip()
        before = text.removesuffix(behind)
        return before[-1:].isdigit() and behind[:1].isdigit()

    def _decode(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens.tolist()))
