"""What every part of a campaign's configuration shares: strict sections, paths, YAML, and how problems are told."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from skygraft.errors import ConfigError

__all__ = [
    "BASE_DIR",
    "Duration",
    "Positive",
    "ResolvedPath",
    "Section",
    "Size",
    "base_dir",
    "describe_problems",
    "parse_bytes",
    "parse_duration",
    "parse_timeout",
    "problems_error",
    "read_yaml",
]

BASE_DIR = "base_dir"
"""Key of the validation context: the folder that relative paths are relative to."""


def base_dir(info: ValidationInfo) -> Path:
    """The folder that relative paths are relative to."""
    return Path((info.context or {}).get(BASE_DIR, Path.cwd()))


def _resolve(path: Path, info: ValidationInfo) -> Path:
    return Path(os.path.normpath(base_dir(info) / path.expanduser()))


ResolvedPath = Annotated[Path, AfterValidator(_resolve)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0,
          "day": 86400.0, "days": 86400.0}  # fmt: skip
_BYTES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(value: str | float) -> float:
    """Seconds of a length of time.

    Parameters
    ----------
    value : str or float
        ``4h``, ``90 min``, ``2 d``, ``HH:MM:SS``, ``D-HH:MM:SS``, or a number of seconds. ``HH:MM`` is not taken:
        batch systems do not agree on whether that is hours or minutes.

    Raises
    ------
    ValueError
        If it is none of these, or not positive.
    """
    text = str(value).strip().lower()
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        total: float = ((24 * days + hours) * 60 + minutes) * 60 + seconds
    else:
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
        if number is None or (number[2] or "s") not in _UNITS:
            raise ValueError(
                f"{value!r} is not a length of time; give it like '04:00:00', '2-00:00:00', '90 min' or '4h'"
            )
        total = float(number[1]) * _UNITS[number[2] or "s"]
    if total <= 0:
        raise ValueError(f"{value!r} is no time at all")
    return total


def parse_timeout(value: str | float | None) -> float:
    """Seconds of a length of time; infinity for None.

    Parameters
    ----------
    value : str, float or None
        As `parse_duration` takes it.

    Raises
    ------
    ValueError
        As `parse_duration`.
    """
    return math.inf if value is None else parse_duration(value)


def parse_bytes(value: str) -> int:
    """Bytes of a size such as ``16GiB``, ``500 MB``, ``4G`` (as GiB, which is what batch systems mean by it).

    Raises
    ------
    ValueError
        If it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", str(value).strip().lower())
    if match is None or float(match[1]) <= 0 or (match[3] and not match[2]):
        raise ValueError(f"{value!r} is not a size of memory or disk; give it like '16GiB' or '500 MB'")
    base = 1000 if match[4] and not match[3] else 1024
    return math.ceil(float(match[1]) * float(base ** _BYTES[match[2]]))


def _duration(value: str | float | None) -> str | float | None:
    if value is not None:
        parse_duration(value)
    return value


def _size(value: str | None) -> str | None:
    if value is not None:
        parse_bytes(value)
    return value


# A YAML reader makes a number of 04:00:00 (sexagesimal) and of an unquoted 4.
Duration = Annotated[str | float | None, AfterValidator(_duration)]
Size = Annotated[str | None, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v), AfterValidator(_size)]


class Section(BaseModel):
    """A mapping of a configuration: no other keys than these, and not changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice in a mapping is an error, not the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one mapping", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file, as plain Python types.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it is, for errors: ``configuration``.

    Raises
    ------
    ConfigError
        If it cannot be read or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the {what} cannot be read ({error})", path=path, fix="Check the path and permissions"
        ) from error
    try:
        # A subclass of SafeLoader: builds plain Python types only.
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(f"not valid YAML{where}: {problem}", path=path, fix="Correct the file") from error
    except RecursionError as error:
        raise ConfigError("not valid YAML: it is nested too deep", path=path, fix="Correct the file") from error
    except (ValueError, TypeError, OverflowError) as error:
        # A tag such as !!int before what is none.
        raise ConfigError(f"not valid YAML: {error}", path=path, fix="Correct the file") from error


def problems_error(
    problems: Sequence[tuple[str, str]], what: str, path: str | os.PathLike[str] | None = None
) -> ConfigError:
    """One error for all problems (place, message) of a configuration."""
    if len(problems) == 1:
        place, problem = problems[0]
        return ConfigError(problem, path=path, key=place)
    joined = "".join(f"\n  {place}: {problem}" for place, problem in problems)
    return ConfigError(f"{len(problems)} problems in the {what}:{joined}", path=path)


def describe_problems(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """What pydantic found wrong, as (place, message); an unknown key names the nearest known one."""
    return [_describe(dict(problem), model) for problem in error.errors(include_url=False)]


def _describe(problem: dict[str, Any], model: type[BaseModel]) -> tuple[str, str]:
    location = tuple(part for part in problem["loc"] if not str(part).startswith("function-"))
    place = ".".join(str(part) for part in location) or "configuration"
    given = problem.get("input")
    match problem["type"]:
        case "extra_forbidden":
            known = _known_keys(location[:-1], model)
            near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            return place, f"unknown key{hint}"
        case "missing":
            return place, "is missing"
        case "value_error":
            return place, str(problem["ctx"]["error"])
        case _:
            shown = json.dumps(given, default=str)
            return place, f"{problem['msg'][0].lower()}{problem['msg'][1:]} (given: {shown[:80]})"


def _known_keys(location: tuple[Any, ...], model: type[BaseModel]) -> list[str]:
    """The keys that the section at `location` has."""
    section = model
    for name in location:
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        candidates = [annotation, *get_args(annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        section = models[0]
    return list(section.model_fields)
