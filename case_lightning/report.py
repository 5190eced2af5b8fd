"""Write the report of one run, or of several side by side, as one HTML page that needs no network.

`python -m case_lightning.report RUN [RUN...] [--output FILE]`
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from case_lightning.errors import CaseError
from case_lightning.reporting import write_report

__all__ = ["main", "write_report"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page that the command line asks for and print where it lies.

    Args:
        arguments: The words after the command's name; those of the process if none are given.

    Returns:
        The exit code: 0, or 2 after an error of the user's.
    """
    options = _build_parser().parse_args(arguments)
    try:
        page = write_report(options.runs, options.output or options.runs[0] / "report.html")
    except CaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m case_lightning.report",
        description="Write one self-contained HTML page about a run; of several runs, a comparison.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder, which holds metrics.json")
    parser.add_argument("--output", metavar="FILE", type=Path, help="the page (default: report.html in the first RUN)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
