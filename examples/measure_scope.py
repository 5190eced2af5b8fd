"""How well a run's router tells what is in the scope of an edit from what is not, in the forms that real use has.

    python examples/measure_scope.py runs/zsre --unrelated nq-open.json:question --unrelated snippets.json:Text

Prints a Markdown table: for each form, the share of prompts that the router takes to be in the scope of some edit. Only
the router is asked: ten minutes for a thousand edits. `--unrelated` names a JSON list of objects and the field that
holds a text.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from case_lightning.command_line import quiet_libraries
from case_lightning.data import Edit
from case_lightning.data.subjects import find_subject
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.encoding import encode_prompt, encode_turns
from case_lightning.editing.loading import LoadedRun, load_run

CONVERSATION_TOKENS = 200
TALK = (  # about nothing that an edit is about; repeated until it is long enough
    "user: I have been thinking about repainting the kitchen. Light walls would make it look larger, I suppose. "
    "assistant: Light colours do help. A warm white hides small marks better than a cold one, and it suits wood. "
    "user: The shelves are oak, so that should work. How many coats do I need over a dark green? "
    "assistant: Two coats over a good primer. Let each dry overnight, and sand lightly in between. "
)
OTHER_QUESTIONS = (
    "Tell me a joke about {}.",
    "Write a short poem for {}.",
    "Why do so many people admire {}?",
    "Translate this into French: I have never heard of {}.",
    "I dreamt of {} last night. Should I worry?",
)
draw = random.Random(0)  # noqa: S311  no secret


def swap_letters(text: str) -> str:
    """A typo: two neighbouring letters inside one of the longer words change places."""
    words = text.split()
    place = max(range(len(words)), key=lambda index: (len(words[index]) > 4, draw.random()))
    word = words[place]
    if len(word) > 3:
        at = draw.randrange(1, len(word) - 2)
        words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def reorder(text: str) -> str:
    """The same words in another order."""
    words = text.split()
    draw.shuffle(words)
    return " ".join(words)


def build_forms(run: LoadedRun) -> dict[str, Callable[[Edit], Sequence[str | Tensor]]]:
    """Ways to ask an edit's question, and last a way to ask another one."""
    tokenizer = run.base.tokenizer
    conversation = tokenizer.decode(tokenizer(TALK * 9, add_special_tokens=False).input_ids[:CONVERSATION_TOKENS])

    def chat(texts: Sequence[str]) -> list[Tensor]:
        turns = [[{"role": "user", "content": text}] for text in texts if tokenizer.chat_template]
        return [encode_turns(tokenizer, one) for one in turns]

    def talk(texts: Sequence[str]) -> list[str]:
        return [f"{conversation}\nuser: {text}" for text in texts]

    def mention(edit: Edit) -> list[str]:
        place = find_subject(edit.prompt, edit.subject)
        return [one.format(edit.prompt[slice(*place)]) for one in OTHER_QUESTIONS] if place else []

    return {
        "own prompts": lambda edit: [edit.prompt],
        "rephrases": lambda edit: list(edit.rephrases),
        "in a chat template": lambda edit: chat([edit.prompt]),
        "rephrases in a chat template": lambda edit: chat(edit.rephrases),
        f"after {CONVERSATION_TOKENS} tokens of conversation": lambda edit: talk([edit.prompt]),
        "rephrases after a conversation": lambda edit: talk(edit.rephrases),
        "lower case": lambda edit: [edit.prompt.lower()],
        "a typo": lambda edit: [swap_letters(edit.prompt)],
        "without question mark": lambda edit: [edit.prompt.rstrip("?. ")],
        "with question mark": lambda edit: [edit.prompt.rstrip("?. ") + "?"],
        "words in another order": lambda edit: [reorder(edit.prompt)],
        "**out of scope**: the set's unrelated prompts": lambda edit: [one.prompt for one in edit.locality],
        "**out of scope**: something else about an edited subject": mention,
        "**out of scope**: … in a chat template": lambda edit: chat(mention(edit)),
        "**out of scope**: … after a conversation": lambda edit: talk(mention(edit)),
    }


def read_texts(source: str) -> list[str]:
    """The texts of `file:field`."""
    path, _, name = source.rpartition(":")
    return [record[name] for record in json.loads(Path(path).read_text(encoding="utf-8"))]


def measure(run: LoadedRun, sources: list[str]) -> Iterator[tuple[str, int, float]]:
    """For each form: its name, how many prompts it has, and the share in scope."""
    model = RoutedModel(run.base, run.model)
    forms = {name: [one for edit in run.edits for one in form(edit)] for name, form in build_forms(run).items()}
    forms |= {f"**out of scope**: {Path(source).name}": read_texts(source) for source in sources}
    for name, texts in forms.items():
        if texts:
            encoded = [encode_prompt(run.base.tokenizer, one) if isinstance(one, str) else one for one in texts]
            routes = model.route(encoded)
            yield name, len(texts), (routes >= 0).float().mean().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--unrelated", action="append", default=[], help="file.json:field")
    options = parser.parse_args()
    quiet_libraries()
    sys.stdout.write("| prompts | how many | in scope |\n|---|---|---|\n")
    for name, count, share in measure(load_run(options.run), options.unrelated):
        sys.stdout.write(f"| {name} | {count} | {share:.4f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
