"""Ask an edited model: `python -m case_lightning.generate --run RUN [--prompt "…"]`.

Prints the edited and the unedited model's answers side by side. Without `--prompt`, every line of standard input is a
prompt; on a terminal that is a chat, ended by an empty line.
"""

import io
import sys
from collections.abc import Iterator

from jsonargparse.typing import PositiveInt

from case_lightning.command_line import SettingsParser, run_verb
from case_lightning.errors import CaseError, ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The command line; by default the process's own.
    """
    parser = SettingsParser(prog="python -m case_lightning.generate", description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--prompt", type=str | None, default=None, help="what to ask")
    parser.add_argument("--max_new_tokens", type=PositiveInt, default=32, help="longest answer in tokens")
    options = parser.read(arguments)
    if options.prompt is not None and not options.prompt.strip():
        raise ConfigError("--prompt: expected text that is not blank")
    from case_lightning.display import make_console, show_examples  # torch is slow to import: --help need not wait
    from case_lightning.editing.checks import check_prompt
    from case_lightning.editing.run import open_scorer

    scorer = open_scorer(options.run)
    console = make_console()
    for prompt in _read_prompts(options.prompt):
        try:
            check_prompt(scorer.base, prompt, options.max_new_tokens)
        except CaseError as error:
            if options.prompt is not None or not sys.stdin.isatty():
                raise
            sys.stderr.write(f"error: {error}\n")  # a chat goes on
            continue
        old, new = (scorer.generate([prompt], options.max_new_tokens, edited=flag)[0] for flag in (False, True))
        show_examples(console, [{"prompt": prompt, "unedited": old, "edited": new}], title="")


def _read_prompts(prompt: str | None) -> Iterator[str]:
    if prompt is not None:
        yield prompt
        return
    interactive = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is refused as any other prompt
    while True:
        if interactive:
            sys.stdout.write("> ")
            sys.stdout.flush()
        line = sys.stdin.readline()
        if not line or (interactive and not line.strip()):
            return
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    sys.exit(run_verb(main))
