"""What the verbs share: reading settings with clear errors, and ending with one line instead of a traceback."""

import difflib
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from typing_extensions import override

from case_lightning.config import RunSettings
from case_lightning.errors import CaseError, ConfigError

# OpenMP reads this when torch is imported: threads that spin while they wait slow a busy machine down many times over
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class SettingsParser(ArgumentParser):
    """A parser whose errors are one line that names the key and the nearest one there is."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(_shorten(message, list_keys(RunSettings))) from ex


def list_keys(settings: type, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass of settings."""
    keys = []
    for one in fields(settings):
        if isinstance(one.type, type) and is_dataclass(one.type):
            keys += list_keys(one.type, f"{prefix}{one.name}.")
        else:
            keys.append(prefix + one.name)
    return keys


def read_settings(arguments: list[str] | None, description: str) -> RunSettings:
    """Read settings from YAML and dotted overrides.

    Args:
        arguments: The command line; by default the process's own.
        description: What `--help` says first.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type.
    """
    parser = SettingsParser(description=description, exit_on_error=True)
    parser.add_argument("--config", action="config", help="YAML file; later options override it")
    parser.add_class_arguments(RunSettings)
    built = parser.instantiate_classes(parser.parse_args(arguments))
    return RunSettings(**{one.name: built[one.name] for one in fields(RunSettings)})


def run_verb(verb: Callable[[], Any]) -> int:
    """Run a command; a user's mistake ends it with one line and exit code 2."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|lightning|peft)\b")
    try:
        verb()
    except CaseError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _shorten(message: str, keys: list[str]) -> str:
    line = " ".join(message.split())
    found = re.search(r"(?:Unrecognized arguments: --|[Kk]ey[\"' ]+|option[\"' ]+)([\w.]+)", line)
    unknown = found.group(1) if found and found.group(1) not in keys else None
    if unknown is None:
        return line
    near = difflib.get_close_matches(unknown, keys + [key.rsplit(".", 1)[-1] for key in keys], n=1, cutoff=0.4)
    full = next((key for key in keys if near and (key == near[0] or key.endswith("." + near[0]))), None)
    hint = f"did you mean {full}?" if full else f"see --help for the {len(keys)} there are"
    return f"unknown setting {unknown!r}; {hint}"
