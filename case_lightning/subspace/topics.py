"""Whether a query asks of a subject what an edit says of it, where a list of common questions can tell.

Ours; see `phrasebook`.
"""

from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from case_lightning.data.subjects import find_names
from case_lightning.subspace.keys import RouterKeys
from case_lightning.subspace.phrasebook import Phrasebook, simplify


class _Asked(NamedTuple):
    """What a key asks.

    Attributes:
        subject: Of what.
        words: All of its words, in which forms of a prompt that differ in their order are alike.
        topics: What it may ask, as indices of the list; none where the list does not have it.
    """

    subject: str
    words: frozenset[str]
    topics: frozenset[int]


class Topics:
    """What keys and queries ask of their subjects.

    Args:
        tokenizer: The base model's; nobody else may use it meanwhile.
        keys: The edits' keys; what is added later is seen.
        phrasebook: Common questions.
        like: The same for other keys of the same run, which lends what it has read.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, keys: RouterKeys, phrasebook: Phrasebook, like: "Topics | None" = None
    ) -> None:
        """Read nothing yet."""
        self.tokenizer, self.keys, self.phrasebook = tokenizer, keys, phrasebook
        self._read: Tensor | None = None
        self._known: dict[tuple[bytes, bytes], _Asked] = like._known if like else {}  # of tokens and marks
        self._asked: list[_Asked] = []  # of each key
        self._topics: dict[frozenset[str], frozenset[int]] = {}  # of all keys of the same words

    def agree(self, query: Tensor, last: int, key: int) -> bool | None:
        """Whether a query asks of a key's subject what the key asks; `None` where that is not known.

        Args:
            query: Token ids, `(length,)`.
            last: The last of them that names the subject.
            key: Index of the key.
        """
        self.refresh()
        asked = self._asked[key]
        topics = self._topics[asked.words]
        if not topics:
            return None
        text = self._decode(query[: last + 1])
        names = find_names(text, asked.subject)
        if not names:
            return None
        start, end = names[-1]
        found = self.phrasebook.find(text[:start], text[end:] + self._decode(query[last + 1 :]))
        return bool(found & topics) if found else None

    def refresh(self) -> None:
        """Read the keys again after they changed; a query does so by itself."""
        if self._read is self.keys.tokens:
            return
        keys = self.keys.split()
        names = [(tokens.numpy().tobytes(), marks.numpy().tobytes()) for tokens, marks in keys]
        self._known = {
            name: self._known.get(name) or self._read_key(*key) for name, key in zip(names, keys, strict=True)
        }
        self._asked, self._topics = [self._known[name] for name in names], {}
        for one in self._asked:
            self._topics[one.words] = self._topics.get(one.words, frozenset()) | one.topics
        self._read = self.keys.tokens

    def _read_key(self, key: Tensor, mark: Tensor) -> _Asked:
        text, subject = self._decode(key), self._decode(key[mark]).strip()
        names = find_names(text, subject)
        topics = self.phrasebook.find(text[: names[-1][0]], text[names[-1][1] :]) if names else frozenset()
        return _Asked(subject, frozenset(simplify(text)), topics)

    def _decode(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True))
