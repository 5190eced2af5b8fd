"""What an edited model was taught: `python -m case_lightning.history RUN list | search TEXT | show ID | export FILE`.

`export` writes the edits that hold, with `--all` those undone, superseded and left out, too.
`undo ID…` takes edits out as if they had never been made, `undo --since BATCH` all from a batch on; `redo ID…` makes
them again at their old place; `diff OTHER_RUN` compares with another run. Edits that were made after an undone one are
made again without it, which takes about as long as they took. `close` lets a `fit` that was cut off end where it is,
so that other edits can come.
"""

import sys

from jsonargparse.typing import NonNegativeInt

from case_lightning.command_line import SettingsParser, run_verb
from case_lightning.errors import ConfigError

ACTIONS = ("list", "search", "show", "export", "undo", "redo", "diff", "close")
ONE_WORD = {"search": "a text", "show": "an edit's id", "export": "a file", "diff": "another run"}


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The command line; by default the process's own.
    """
    parser = SettingsParser(prog="python -m case_lightning.history", description=__doc__)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("words", nargs="*", help="what the action is about: a text, ids, a file or another run")
    parser.add_argument("--since", type=NonNegativeInt | None, default=None, help="undo all from this batch on")
    parser.add_argument("--all", action="store_true", help="export edits that do not hold, too")
    options = parser.read(arguments)
    _check_words(options.action, options.words, options.since)
    if options.all and options.action != "export":
        raise ConfigError(f"--all: expected with export, found with {options.action}")
    from case_lightning.editing import history  # torch is slow to import: --help need not wait

    if options.action in ("undo", "redo"):
        history.change(options.run, options.action, options.words, options.since)
    elif options.action == "close":
        history.close(options.run)
    else:
        history.show(options.run, options.action, " ".join(options.words), options.all)


def _check_words(action: str, words: list[str], since: int | None) -> None:
    if action in ONE_WORD and len(words) != 1:
        raise ConfigError(f"history {action}: expected {ONE_WORD[action]}, found {' '.join(words) or 'nothing'}")
    if action in ("list", "close") and words:
        raise ConfigError(f"history {action}: expected nothing more, found {' '.join(words)}")
    if action in ("undo", "redo") and bool(words) == (since is not None):
        raise ConfigError(f"history {action}: expected ids of edits{' or --since BATCH' * (action == 'undo')}")
    if since is not None and action != "undo":
        raise ConfigError(f"--since: expected with undo, found with {action}")


if __name__ == "__main__":
    sys.exit(run_verb(main))
