"""Score a finished run again: `python -m case_lightning.evaluate --run RUN [--data.path FILE]`.

Scores the run's final model on its own edits, by both protocols, and rewrites `metrics.json`. With `--data.path`,
scores it on those records instead and prints the figures, leaving the run as it is.
"""

import json
import sys

from jsonargparse.typing import PositiveInt

from case_lightning.command_line import SettingsParser, add_data_arguments, run_verb


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The command line; by default the process's own.
    """
    parser = SettingsParser(prog="python -m case_lightning.evaluate", description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--batch_size", type=PositiveInt, default=32, help="prompts scored at once")
    parser.add_argument("--generate", type=bool, default=True, help="whether answers are also generated freely")
    parser.add_argument(
        "--data.path", type=str | None, default=None, help="records to score instead of the run's edits"
    )
    add_data_arguments(parser)
    options = parser.read(arguments)
    from case_lightning.editing.run import evaluate_run  # torch is slow to import: --help need not wait

    metrics = evaluate_run(options.run, options.data.as_dict(), options.batch_size, options.generate)
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run_verb(main))
