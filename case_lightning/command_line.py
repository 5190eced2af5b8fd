"""What the verbs share: reading settings with clear errors, and ending with one line instead of a traceback."""

import difflib
import errno
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from typing_extensions import override

from case_lightning.config import RunSettings
from case_lightning.errors import CaseError, ConfigError

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


class SettingsParser(ArgumentParser):
    """A parser whose errors are one line that names the key and the nearest one there is."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ConfigError(_reword(message)) from ex

    def read(self, arguments: list[str] | None = None) -> Namespace:
        """Parse a command line; keys are checked first, for the error to name the nearest one there is.

        Args:
            arguments: The command line; by default the process's own.

        Raises:
            ConfigError: A key is unknown, a value has the wrong type, or a configuration file cannot be used.
        """
        words = sys.argv[1:] if arguments is None else list(arguments)
        known = [option[2:] for action in self._actions for option in action.option_strings if option.startswith("--")]
        for place, word in enumerate(words):
            key, _, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
            if key:
                _check_key(key, known)
            if key == "config" and (path := value or next(iter(words[place + 1 :]), "")):
                _check_file(path, known)
        return self.refuse_nothing(self.parse_args(words))

    def refuse_nothing(self, found: Namespace) -> Namespace:
        """Values as they are, where each that must be something is.

        Raises:
            ConfigError: One is null, as YAML reads a key with nothing behind it.
        """
        for action in self._actions:
            optional = action.default is None or type(None) in get_args(getattr(action, "_typehint", None))
            if not optional and found.get(action.dest, "") is None:
                raise ConfigError(f"{action.dest}: expected a value, found nothing; give one or leave the line out")
        return found


def read_settings(arguments: list[str] | None, description: str, prog: str | None = None) -> RunSettings:
    """Read settings from YAML and dotted overrides.

    Args:
        arguments: The command line; by default the process's own.
        description: What `--help` says first.
        prog: The command as `--help` shows it; by default the name of the script.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type, or a configuration file cannot be used.
    """
    parser = SettingsParser(prog=prog, description=description, exit_on_error=True)
    parser.add_argument("--config", action="config", help="YAML file; later options override it")
    parser.add_class_arguments(RunSettings)
    return settings_from(parser.read(arguments).as_dict())


def add_data_arguments(parser: ArgumentParser) -> None:
    """Add what says how records are read from `--data.path`, as of `fit`."""
    parser.add_argument("--data.format", type=str, default="auto", help="their format")
    parser.add_argument("--data.columns", type=dict[str, str] | None, default=None, help="our field to their column")
    parser.add_argument("--data.limit", type=PositiveInt | None, default=None, help="how many of them")
    parser.add_argument("--data.offset", type=NonNegativeInt, default=0, help="how many to pass over first")
    parser.add_argument(
        "--data.on_error", type=Literal["raise", "skip"], default="raise", help="what becomes of unusable ones"
    )


def settings_from(found: Mapping[str, Any]) -> RunSettings:
    """Settings from a nest of values as `config.yaml` holds them; what is missing has its default."""
    known = [one for one in fields(RunSettings) if one.name in found]
    return RunSettings(**{one.name: _build(one.type, found[one.name]) for one in known})


def run_verb(verb: Callable[[], Any]) -> int:
    """Run a command; a user's mistake ends it with one line and exit code 2."""
    ignore_library_warnings()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        verb()
        sys.stdout.flush()
    except CaseError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except OSError as error:
        if _takes_output():
            raise
        return _leave_output(error)
    return 0


def _takes_output() -> bool:
    """Whether standard output takes another line."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _leave_output(error: OSError) -> int:
    """End where standard output takes no more; quietly where its reader went, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
    if error.errno == errno.EPIPE:
        return 128 + signal.SIGPIPE
    sys.stderr.write(f"error: standard output cannot be written ({error.strerror}); make room there\n")
    return 2


def ignore_library_warnings() -> None:
    """Keep what libraries warn of, about themselves, off the screen."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|lightning|peft)\b")


def quiet_libraries() -> None:
    """Keep Lightning's hints about devices and finished fits off the screen: here a fit is a batch."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _build(kind: object, value: Any) -> Any:  # noqa: ANN401  whatever a setting may be
    return kind(**value) if isinstance(kind, type) and is_dataclass(kind) else value


def _check_key(key: str, known: list[str]) -> None:
    """Refuse a key that is neither known nor an item of a known one."""
    if key in known or any(key.startswith(one + ".") for one in known if not _is_section(one, known)):
        return
    names = {one.rsplit(".", 1)[-1]: one for one in reversed(known)}
    near = difflib.get_close_matches(key, [*known, *names], n=1, cutoff=0.4)
    near = near or difflib.get_close_matches(key.rsplit(".", 1)[-1], names, n=1, cutoff=0.4)
    hint = f"did you mean {names.get(near[0], near[0])}?" if near else "see --help for those there are"
    raise ConfigError(f"unknown setting {key!r}; {hint}")


def _check_file(path: str, known: list[str]) -> None:
    """Refuse a configuration file that cannot be read, is no mapping, or has an unknown key."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a NUL in the path
        raise ConfigError(f"--config {path}: expected a YAML file of settings; it cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--config {path}: expected settings as `key: value`, found {found!r}")
    for key, value in found.items():
        _check_key(str(key), known)
        section = str(key).rpartition(".")[0]
        if section in found:
            raise ConfigError(f"--config {path}: {key}: {section} is a section of this file; give it in there")
        if not _is_section(key, known):
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"--config {path}: {key}: expected settings as `key: value`, found {value!r}")
        for name in value:
            _check_key(f"{key}.{name}", known)


def _is_section(key: str, known: list[str]) -> bool:
    return any(one.startswith(f"{key}.") and one != f"{key}.help" for one in known)


def _reword(message: str) -> str:
    """The parser's message in one plain line: key, what was expected, what was found."""
    line = " ".join(message.split())
    union = re.search(r'key "([\w.]+)": Does not validate .*Subtypes: \[(.*)\] Errors.*Given value: (.*)', line)
    found = union or re.search(r'key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)', line)
    if bound := re.search(r'key "([\w.]+)": Not of type (Positive|NonNegative)Int: (.*?) does not conform', line):
        least = 1 if bound[2] == "Positive" else 0
        return f"{bound[1]}: expected a whole number of at least {least}, found {bound[3]}"
    if not found:
        return re.sub(r'Parser key "([\w.]+)": ', r"\1: ", line)
    key, expected, value = found.groups()
    expected = expected.replace(", <class 'NoneType'>", " or nothing")
    for name, words in KINDS.items():
        expected = expected.replace(f"<class '{name}'>", words)
    return f"{key}: expected {expected.replace('typing.', '')}, found {value}"
