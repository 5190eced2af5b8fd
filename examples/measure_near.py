"""What a run's router makes of other questions about the subjects that were edited.

    python -m case_lightning.fit --data.path docs/data/questions/plain.jsonl --run_dir runs/plain
    python examples/measure_near.py runs/plain docs/data/questions/plain.jsonl

The file has, for each edit of the run, its `rephrases` and prompts that are `near`: about the same subject, and asking
something else. Prints a Markdown table of the share of each that is taken to be in the scope of some edit, without the
list of common questions and with it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import cast

from case_lightning.command_line import quiet_libraries
from case_lightning.editing.encoding import encode_prompt
from case_lightning.editing.loading import load_run
from case_lightning.subspace import CaseModel


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run with subspace.phrasebook")
    parser.add_argument("file", help="JSONL file of the facts that it was given")
    options = parser.parse_args()
    quiet_libraries()
    run = load_run(options.run)
    router = cast(CaseModel, run.model.base_model).router
    topics = router.topics
    facts = [json.loads(line) for line in Path(options.file).read_text(encoding="utf-8").splitlines()]
    sys.stdout.write("| prompts | how many | in scope, without the list | with it |\n|---|---|---|---|\n")
    for name, key in (("own prompts", "prompt"), ("rephrases", "rephrases"), ("something else", "near")):
        texts = [text for fact in facts for text in ([fact[key]] if key == "prompt" else fact[key])]
        prompts = [encode_prompt(run.base.tokenizer, text) for text in texts]
        shares = []
        for router.topics in (None, topics):
            routes = router.locate_each(prompts).subspaces
            shares.append((routes >= 0).float().mean().item())
        sys.stdout.write(f"| {name} | {len(prompts)} | {shares[0]:.3f} | {shares[1]:.3f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
