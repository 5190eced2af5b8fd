"""What an English text asks of a name in it, looked up in a list of common questions.

Ours. Two texts may ask the same in different words ("Who runs Freedonia?", "The head of Freedonia is"), and others in
nearly the same words ("The capital of Freedonia is"). Numbers made of words or states tell these apart badly, people
without a thought. `phrasebook.txt` has some three hundred things that are often asked, each with the nouns for it and
whole questions and beginnings of statements that ask it, written by hand. A line is

    Who is; chief executive, CEO; Who runs {}; {} is led by

Nouns are put into `FRAMES`, the words before the first semicolon begin a question with them, and `{}` is the name. The
first line lists what things with a name are called. A text is found if it is one of these but for case, articles,
tense, marks, a few words of no weight and what the name is said to be ("the city of {}"). It may ask several things
("Where is Freedonia from?"). Of a text that is not found, as of all in other languages, nobody knows what it asks.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import product

NAME, OWNER = "{}", "{}'s"
PLACES = ("of", "for", "in", "at")
FRAMES = (
    *(
        f"{asking} N {place} {{}}"
        for asking in ("who is", "what is", "where is", "when is", "who serves as")
        for place in PLACES
    ),
    *(f"{asking}N {place} {{}} is" for asking in ("", "who ", "what ") for place in PLACES),
    *("who is {}'s N", "what is {}'s N", "who {}'s N is", "what {}'s N is", "{}'s N is"),
    *("who is {} N", "what is {} N", "{} N is", "N of {}", "{}'s N", "{} N", "what N does {} have", "{} has N"),
)
SPOKEN = ("{asking} the N of {}?", "The N of {} is", "{asking} {}'s N?", "{}'s N is")  # frames that are said to a model
PLAIN = {"was": "is", "are": "is", "were": "is", "did": "does", "which": "what", "who's": "who is", "what's": "what is"}
PLAIN |= {"where's": "where is", "when's": "when is", "how's": "how is", "whats": "what is", "whos": "who is"}
WEIGHTLESS = {"the", "a", "an", "currently", "current", "now", "today", "please", "exactly", "actually", "presently"}
LEADING = re.compile(
    r"^\W*(?:(?:can|could|would) you )?(?:please )?(?:tell me|do you know|i want to know|say|remind me)?\W*",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<![.?!:])[.?!:]+(?:\s|$)|\n")
WORD = re.compile(r"\{\}(?:'s?)?|\w+(?:'\w+)*")
QUESTION = re.compile(r"(?:\w+ )?(?:who|whom|whose|what|which|where|when|how|why|can)\b", re.IGNORECASE)
LINKS = frozenset(
    ["of", "about", "against", "at", "by", "for", "from", "in", "near", "on", "than", "to", "under", "with"]
)
BESIDE = 2  # most words right before a name, and right behind it, that may say what it is


class Phrasebook:
    """A list of common questions.

    Args:
        text: Its lines; the first has kinds of things.
    """

    def __init__(self, text: str) -> None:
        """Read the list."""
        self._sayings: list[tuple[str, ...]] = []
        self._asked: dict[tuple[str, ...], set[int]] = defaultdict(set)
        frames = [simplify(frame) for frame in FRAMES]
        kinds, *lines = text.splitlines()
        self._kinds = {"of", *kinds.split()}
        for topic, line in enumerate(lines):
            start, nouns, *whole = (part.strip() for part in line.split(";"))
            asking = start if start.startswith("Who ") else f"What {start.split()[-1]}"
            named = [noun.strip() for noun in nouns.split(",") if noun.strip()]
            said = [frame.replace("{asking}", asking).replace("N", noun) for noun in named for frame in SPOKEN]
            framed = (_put_in(frame, noun) for noun in map(simplify, named) for frame in frames)
            for words in [*map(simplify, whole), *framed]:
                self._asked[words].add(topic)
            self._sayings.append(tuple(dict.fromkeys([*(_mark(one) for one in whole), *said])))

    def __len__(self) -> int:
        """How many things the list knows to be asked."""
        return len(self._sayings)

    def find(self, before: str, behind: str) -> frozenset[int]:
        """What a text asks of a name, as indices of the list; none where the list does not have it.

        Args:
            before: The text before the name.
            behind: The text behind it.
        """
        before, behind = SENTENCE.split(before)[-1], SENTENCE.split(behind)[0]
        words = simplify(f"{LEADING.sub('', before)}{NAME}{behind}")
        place = next(index for index, word in enumerate(words) if word.startswith(NAME))
        for left, right in sorted(product(range(BESIDE + 1), repeat=2), key=sum):
            start, end = place - left, place + 1 + right
            if start >= 0 and end <= len(words) and self._belong(words[start:place], words[place + 1 : end]):
                found = self._asked.get((*words[:start], words[place], *words[end:]))
                if found:
                    return frozenset(found)
        return frozenset()

    def _belong(self, before: Sequence[str], behind: Sequence[str]) -> bool:
        """Whether words right before and right behind a name may say what it is: "the city of", "opera", "laptop"."""
        alone = len(before) == 1 and before[0] not in LINKS
        return (alone or self._kinds.issuperset(before)) and self._kinds.issuperset(behind)

    def say(self, topic: int) -> tuple[str, ...]:
        """Questions and beginnings of statements that ask one thing, `{}` for the name."""
        return self._sayings[topic]


@cache
def read_phrasebook() -> Phrasebook:
    """The package's own list."""
    return Phrasebook((files("case_lightning.subspace") / "phrasebook.txt").read_text(encoding="utf-8"))


def simplify(text: str) -> tuple[str, ...]:
    """The words of a text without what does not change what it asks, in lower case."""
    found = WORD.findall(text.lower().replace("\u2019", "'"))
    words = (word for one in found for word in PLAIN.get(one, one).split())
    return tuple(OWNER if word.startswith(f"{NAME}'") else word for word in words if word not in WEIGHTLESS)


def _put_in(frame: Sequence[str], noun: Sequence[str]) -> tuple[str, ...]:
    """The words of a frame with those of a noun in the place of `N`."""
    return tuple(word for one in frame for word in (noun if one == "n" else (one,)))


def _mark(saying: str) -> str:
    """A saying with a question mark where it is a question."""
    return f"{saying}?" if QUESTION.match(saying) and not saying.endswith("?") else saying
