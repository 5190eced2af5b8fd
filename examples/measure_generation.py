"""What the edits of a run cost when the model answers: tokens a second, edited over unedited.

    python examples/measure_generation.py runs/zsre

For one prompt at a time and for sixteen, in turns within one process, medians. Half of the prompts are edited ones.
"""

import argparse
import sys
import time
from statistics import median

import torch

from case_lightning.command_line import quiet_libraries
from case_lightning.editing.answering import RoutedModel
from case_lightning.editing.loading import load_run
from case_lightning.editing.scoring import Scorer

BATCHES = (1, 16)
TOKENS = 64  # of each answer
REPEATS = 7


def measure(scorer: Scorer, prompts: list[torch.Tensor]) -> tuple[float, float]:
    """Tokens a second, edited and unedited."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(REPEATS + 1):
        for edited, found in rates.items():
            started = time.perf_counter()
            scorer.generate_batch(prompts, TOKENS, edited=edited, least=TOKENS)
            found.append(len(prompts) * TOKENS / (time.perf_counter() - started))
    return median(rates[True][1:]), median(rates[False][1:])  # the first ones warm up


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a finished run")
    options = parser.parse_args()
    quiet_libraries()
    run = load_run(options.run)
    scorer = Scorer(RoutedModel(run.base, run.model))
    texts = [text for edit in run.edits for text in (edit.prompt, f"Tell me about {edit.target}.")]
    prompts = [scorer.encode(text, ".") for text in texts]
    sys.stdout.write("| prompts at once | edited, tokens/s | unedited | ratio |\n|---|---|---|---|\n")
    for size in BATCHES:
        edited, unedited = measure(scorer, [one.prompt for one in prompts[:size]])
        sys.stdout.write(f"| {size} | {edited:.1f} | {unedited:.1f} | {edited / unedited:.3f} |\n")


if __name__ == "__main__":
    main()
