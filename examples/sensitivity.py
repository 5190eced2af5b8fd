"""How much the figures hang on the settings: an Optuna study of whole runs, and its plots.

    pip install optuna matplotlib scikit-learn
    python examples/sensitivity.py --data.path zsre_mend_edit.json --data.limit 100 --run_dir runs/sensitivity

Takes the settings of `fit`, of which each trial draws some anew, evenly over their ranges (a Sobol sequence), not in
search of the best. The objective is the mean of reliability and generalization of the final model on all edits. Trials
are kept in `study.db` of `run_dir`: stop the command when you like, or run it twice to share the work; it ends when
`--trials` are done. It leaves `sensitivity.svg`, a point for each trial over each setting, and prints how much of the
variance each setting explains (fANOVA).
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
from optuna.importance import get_param_importances
from optuna.samplers import QMCSampler
from optuna.study import MaxTrialsCallback
from optuna.trial import Trial, TrialState
from optuna.visualization.matplotlib import plot_slice

from case_lightning.command_line import read_settings, run_verb
from case_lightning.config import RunSettings
from case_lightning.editing.run import fit_run
from case_lightning.editing.run_folder import RunFolder


def draw_settings(trial: Trial, settings: RunSettings) -> None:
    """Change the settings that are looked at."""
    training, consolidation = settings.training, settings.consolidation
    training.learning_rate = trial.suggest_float("learning rate", 3e-4, 5e-3, log=True)
    training.steps = trial.suggest_int("steps", 8, 32)
    training.n_rehearsed = trial.suggest_int("rehearsed", 0, 20)
    training.n_variants = trial.suggest_int("variants", 0, 8)
    settings.subspace.rank = 2 ** trial.suggest_int("log2 rank", 7, 11)
    settings.memory.weight = trial.suggest_float("memory weight", 0.0, 4.0)
    consolidation.passes = trial.suggest_int("consolidation passes", 0, 3)
    consolidation.every = 50 if consolidation.passes else 0
    consolidation.passes = max(consolidation.passes, 1)  # those of none do not matter


def main() -> None:
    """Run the trials that are missing, then draw all."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--trials", type=int, default=32)
    options, arguments = parser.parse_known_args()
    parent = Path(read_settings(arguments, __doc__).run_dir)
    parent.mkdir(parents=True, exist_ok=True)

    def run(trial: Trial) -> float:
        folder = RunFolder(parent / f"trial{trial.number}")
        settings = read_settings([*arguments, "--evaluation.generate=false", f"--run_dir={folder.path}"], __doc__)
        draw_settings(trial, settings)
        fit_run(settings)
        final = folder.read_metrics()["final"]
        trial.set_user_attr("locality", final["locality"])
        return float(final["reliability"] + final["generalization"]) / 2

    storage = f"sqlite:///{parent / 'study.db'}"
    sampler = QMCSampler(seed=0)
    study = optuna.create_study(storage=storage, sampler=sampler, study_name="sensitivity", load_if_exists=True)
    done = MaxTrialsCallback(options.trials, states=(TrialState.COMPLETE,))
    if len(study.get_trials(states=(TrialState.COMPLETE,))) < options.trials:
        study.optimize(run, callbacks=[done])
    plot_slice(study, target_name="mean of reliability and generalization")
    plt.gcf().savefig(parent / "sensitivity.svg", bbox_inches="tight")
    sys.stdout.write("| setting | share of variance |\n|---|---|\n")
    for name, share in get_param_importances(study).items():
        sys.stdout.write(f"| {name} | {share:.2f} |\n")


if __name__ == "__main__":
    sys.exit(run_verb(main))
