"""Write the report of one run, or of several side by side, as one HTML page that needs no network.

`python -m case_lightning.report RUN [RUN...] [--output FILE]`
"""

import sys
from pathlib import Path

from case_lightning.command_line import SettingsParser, run_verb
from case_lightning.reporting import write_report


def main(arguments: list[str] | None = None) -> None:
    """Write the page that the command line asks for and print where it lies.

    Args:
        arguments: The command line; by default the process's own.
    """
    parser = SettingsParser(prog="python -m case_lightning.report", description=__doc__)
    parser.add_argument("RUN", nargs="+", help="a run folder, which holds metrics.json")
    parser.add_argument("--output", type=str | None, default=None, help="the page; else report.html in the first RUN")
    options = parser.read(arguments)
    runs = [Path(run) for run in options.RUN]
    page = write_report(runs, runs[0] / "report.html" if options.output is None else Path(options.output))
    sys.stdout.write(f"{page}\n")


if __name__ == "__main__":
    sys.exit(run_verb(main))
