"""What each part of the method brings: one run for each row of ablation.yaml, and a table.

    python examples/ablation.py --data.path zsre_mend_edit.json --data.limit 300 --run_dir runs/ablation

Takes the settings of `fit`, which the rows then change; the runs go into folders of `run_dir`. A row whose run is
there already is not run again, so the command goes on where it was stopped; an unfinished run is made anew.
`--rows TEXT` runs only rows with this in their name, so two processes can share the work.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from case_lightning.command_line import read_settings, run_verb
from case_lightning.editing.run import fit_run
from case_lightning.editing.run_folder import RunFolder

ROWS = Path(__file__).with_suffix(".yaml")
FIGURES = (
    "reliability",
    "generalization",
    "locality",
    "exact_match",
    "generalization_exact_match",
    "perplexity_median",
)


def main() -> None:
    """Run the rows that are missing, then print all."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rows", default="")
    options, arguments = parser.parse_known_args()
    parent = Path(read_settings(arguments, __doc__).run_dir)
    rows: dict[str, dict[str, Any]] = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    for name, changes in rows.items():
        folder = RunFolder(parent / re.sub(r"\W+", "_", name))
        if options.rows in name and not folder.finished:
            shutil.rmtree(folder.path, ignore_errors=True)
            changed = [f"--{key}={value}" for key, value in changes.items()]
            fit_run(read_settings([*arguments, *changed, "--run_dir", str(folder.path)], __doc__))
    _print_table({name: RunFolder(parent / re.sub(r"\W+", "_", name)) for name in rows})


def _print_table(folders: dict[str, RunFolder]) -> None:
    heads = ("row", *(figure.replace("_", " ") for figure in FIGURES), "subspaces", "bytes", "seconds an edit")
    sys.stdout.write(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
    for name, folder in folders.items():
        if folder.finished:
            metrics = folder.read_metrics()
            figures = [f"{metrics['final'][figure]:.3f}" for figure in FIGURES]
            cost = metrics["cost"]
            costs = [f"{cost['subspaces']}", f"{cost['adapter_bytes']:,}", f"{cost['edit_seconds']:.2f}"]
            sys.stdout.write(f"| {' | '.join([name, *figures, *costs])} |\n")


if __name__ == "__main__":
    sys.exit(run_verb(main))
