"""Puts the edits of several files into one, in random order.

    python examples/interleave.py mixed.jsonl zsre_mend_edit.json counterfact-edit.json hallucination-edit.json:200

A number after a colon takes so many records of a file. Each edit's id begins with its file's place in the list.
"""

import argparse
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

from case_lightning.data import EditReader


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the file to write, JSON lines", type=Path)
    parser.add_argument("files", help="files of edits, each FILE or FILE:COUNT", nargs="+")
    parser.add_argument("--seed", help="of the order", type=int, default=0)
    args = parser.parse_args()
    edits = []
    for place, name in enumerate(args.files):
        path, count = re.fullmatch(r"(.+?)(?::(\d+))?", name).groups()  # type: ignore[union-attr]  it always fits
        read = EditReader(on_error="skip").read(path, limit=int(count) if count else None)
        edits += [replace(edit, id=f"{place}-{edit.id}") for edit in read]
    random.Random(args.seed).shuffle(edits)  # noqa: S311  no secret
    args.out.write_text("".join(edit.to_json() + "\n" for edit in edits), encoding="utf-8")
    print(f"{len(edits)} edits in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
