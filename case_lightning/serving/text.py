"""The text of an answer as its tokens come."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # stands for a character of which only a part has come


class TextStream:
    """Turns tokens into pieces of text, each of which is certain once it is given.

    Held back are parts of characters, and what may turn out to be the beginning of a stop text.

    Args:
        tokenizer: The base model's.
        stop: Texts at which the answer ends; they are no part of it.
        strip: Whether white space at the beginning is left off.

    Attributes:
        stopped: Whether a stop text has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = (), strip: bool = False) -> None:
        """Start with no token."""
        self.tokenizer, self.stop, self.strip = tokenizer, stop, strip
        self.stopped = False
        self._tokens: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """Add a token; what is certain by now and was not given before."""
        self._tokens.append(token)
        text = self._decode()
        places = [place for one in self.stop if (place := text.find(one)) >= 0]
        self.stopped = bool(places)
        certain = min(places) if places else len(text.rstrip(UNFINISHED))
        return self._give(text, certain if places else certain - self._count_held_back(text[:certain]))

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        text = self._decode()
        return "" if self.stopped else self._give(text, len(text))

    def _decode(self) -> str:
        text = str(self.tokenizer.decode(self._tokens, skip_special_tokens=True))
        return text.lstrip() if self.strip else text

    def _give(self, text: str, end: int) -> str:
        piece = text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _count_held_back(self, text: str) -> int:
        """Length of the longest end of a text that a stop text begins with."""
        lengths = [(one, length) for one in self.stop for length in range(1, min(len(one), len(text) + 1))]
        return max((length for one, length in lengths if text.endswith(one[:length])), default=0)
