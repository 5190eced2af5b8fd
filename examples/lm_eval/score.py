"""Score a run with lm-evaluation-harness, edited beside unedited, on the tasks in this folder.

    pip install -c constraints.txt -e '.[eval]'
    python examples/lm_eval/score.py --run runs/quickstart

Run it from the root of a checkout. Prints a table: accuracy where answers are given to choose from, exact match where
they are generated. `stock` is the harness's own `HFLM`, `routed` the one that routes by the question alone.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from case_lightning.command_line import quiet_libraries
from case_lightning.editing.harness import RoutedHFLM
from case_lightning.editing.loading import load_run

TASKS = {"edited_choice": "acc,none", "unrelated_choice": "acc,none", "edited_answer": "exact_match,strip"}


def score(model: HFLM, limit: int | None = None) -> dict[str, float]:
    """The figure of each task."""
    tasks = TaskManager(include_path=str(Path(__file__).parent), include_defaults=False)
    results = simple_evaluate(model, tasks=list(TASKS), task_manager=tasks, limit=limit, bootstrap_iters=0)["results"]
    return {task: results[task][metric] for task, metric in TASKS.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--limit", type=int, help="questions of each task; by default all")
    options = parser.parse_args()
    quiet_libraries()
    run = load_run(options.run)
    stock = HFLM(pretrained=run.model, tokenizer=run.base.tokenizer, batch_size=options.batch_size)
    columns = {"unedited": stock, "stock": stock, "routed": RoutedHFLM(run, batch_size=options.batch_size)}
    figures = {}
    for name, model in columns.items():
        with run.model.disable_adapter() if name == "unedited" else nullcontext():
            figures[name] = score(model, options.limit)
    sys.stdout.write(f"| task | {' | '.join(columns)} |\n|---|---|---|---|\n")
    for task in TASKS:
        cells = " | ".join(f"{figures[name][task]:.3f}" for name in columns)
        sys.stdout.write(f"| {task} | {cells} |\n")


if __name__ == "__main__":
    main()
