"""Compare editing methods: `python -m case_lightning.bench --config configs/bench/zsre_smollm2.yaml`.

Every method edits every data set with every seed in a process of its own and is scored by the same evaluator. A command
that was stopped goes on after the last cell that it finished. It leaves `results.parquet`, `results.md` and plots.
"""

import sys
from dataclasses import fields
from importlib.util import find_spec

from case_lightning.benchmark.settings import BenchSettings
from case_lightning.command_line import SettingsParser, run_verb
from case_lightning.errors import ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: The command line; by default the process's own.
    """
    settings = read_bench(arguments)
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "bench draws with matplotlib, which is not installed; pip install 'case_lightning[tensorboard]'"
        )
    from case_lightning.benchmark.bench import run_bench  # torch is slow to import: --help need not wait

    run_bench(settings)


def read_bench(arguments: list[str] | None = None) -> BenchSettings:
    """Read what to compare from a command line and the file that it names.

    Args:
        arguments: The command line; by default the process's own.

    Raises:
        ConfigError: The message names the key, the value and what is accepted.
    """
    parser = SettingsParser(prog="python -m case_lightning.bench", description=__doc__)
    parser.add_argument("--config", action="config", help="YAML file; later options override it")
    parser.add_class_arguments(BenchSettings)
    found = parser.instantiate(parser.read(arguments))
    return BenchSettings(**{one.name: found[one.name] for one in fields(BenchSettings)})


if __name__ == "__main__":
    sys.exit(run_verb(main))
