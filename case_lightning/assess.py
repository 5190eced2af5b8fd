"""Look before you edit: `python -m case_lightning.assess --run RUN --data.path new.jsonl [--json]`.

Says of each new fact, without changing anything, whether the base model knows it already, the run has it already, it
contradicts an edit, or is in conflict with a subspace; or that it is free.
"""

import json
import sys

from case_lightning.command_line import SettingsParser, add_data_arguments, run_verb


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The command line; by default the process's own.
    """
    parser = SettingsParser(prog="python -m case_lightning.assess", description=__doc__)
    parser.add_argument("--run", required=True, help="folder of the run that they would go into")
    parser.add_argument("--data.path", type=str, required=True, help="the new facts")
    add_data_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(arguments)
    from case_lightning.display import make_console
    from case_lightning.editing.assessment import assess_data, show_verdicts  # torch is slow: --help need not wait

    verdicts = assess_data(options.run, options.data.as_dict())
    if options.json:
        sys.stdout.write(json.dumps(verdicts, indent=2, ensure_ascii=False) + "\n")
    else:
        show_verdicts(make_console(), verdicts)


if __name__ == "__main__":
    sys.exit(run_verb(main))
