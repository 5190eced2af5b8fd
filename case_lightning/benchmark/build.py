"""An editing method from its name and its settings as a configuration file has them."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Mapping
from typing import Any

from case_lightning.base import Base
from case_lightning.baselines import METHODS, CaseSettings, EditingMethod
from case_lightning.command_line import SettingsParser
from case_lightning.editing.checks import check_settings
from case_lightning.errors import ConfigError

MAY_BE_ZERO = (
    "layer",
    "layers",
    "first_layer",
    "n_prefixes",
    "enough",
    "kl_weight",
    "margins",
    "weight_decay",
    "threshold",
)
SHARES = ("active_share", "density", "mask_share")  # of 1 at most


def check_method(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a method that there is not, a setting that it does not have, and of `case` what `fit` would refuse.

    Raises:
        ConfigError: The message names the method, the value and what there is.
    """
    settings = _build_settings(name, found)
    try:
        if isinstance(settings, CaseSettings):
            check_settings(settings.fill_run())
        else:
            _check_numbers(settings)
    except ConfigError as error:
        raise ConfigError(f"methods.{name}.{error}") from None


def build_method(name: str, found: Mapping[str, Any], base: Base, seed: int) -> EditingMethod:
    """Build a method that has edited nothing yet.

    Args:
        name: Its name in the comparison.
        found: Its settings; `method` says which method it is where the name does not.
        base: The base model.
        seed: Of everything random.

    Raises:
        ConfigError: There is no such method, or a setting cannot be used.
    """
    settings = _build_settings(name, found)
    kind: Any = METHODS[_find_kind(name, found)]
    method: EditingMethod = kind(base, seed=seed, settings=settings)
    return method


def fill_settings(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a method, with the defaults of those that were not given, and which method it is.

    Raises:
        ConfigError: As of `build_method`.
    """
    filled = dataclasses.asdict(_build_settings(name, found))
    return {"method": _find_kind(name, found), **filled}


def _find_kind(name: str, found: Mapping[str, Any]) -> str:
    kind = str(found.get("method", name))
    if kind not in METHODS:
        near = difflib.get_close_matches(kind, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(METHODS)}"
        raise ConfigError(f"methods.{name}: no method is called {kind!r}; {hint}")
    return kind


def _check_numbers(settings: object, place: str = "") -> None:
    for name, value in vars(settings).items():
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{place}{name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            expected = "0 or more" if name in MAY_BE_ZERO else "a number above 0"
            if name in SHARES and not 0 < number <= 1:
                raise ConfigError(f"{place}{name}: expected a share above 0, 1 at most, found {number}")
            if not math.isfinite(number) or number < 0 or (number == 0 and name not in MAY_BE_ZERO):
                raise ConfigError(f"{place}{name}: expected {expected}, found {number}")


def _build_settings(name: str, found: Mapping[str, Any]) -> Any:  # noqa: ANN401  each method has its own
    kind = inspect.signature(METHODS[_find_kind(name, found)]).parameters["settings"].annotation
    settings = next(one for one in (kind, *getattr(kind, "__args__", ())) if dataclasses.is_dataclass(one))
    given = {key: value for key, value in found.items() if key != "method"}
    known = [one.name for one in dataclasses.fields(settings)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"methods.{name}: unknown setting {key!r}; {hint}")
    own = name.replace("-", "_")  # as the parser writes it
    parser, place = SettingsParser(), f"methods.{own}"
    parser.add_class_arguments(settings, place)
    values = parser.refuse_nothing(parser.parse_object({"methods": {own: given}}))
    return parser.instantiate(values)[place]
