"""What all sections of the YAML share: the base model, types of values, reading of files, and reports of problems."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from skygraft.errors import ConfigError
from skygraft.paths import home_expanded
from skygraft.place_names import is_copy, is_url, shown_place
from skygraft.wording import shorten
from skygraft.yaml_text import YamlError, check_yaml, key_lines, yaml_problem

__all__ = [
    "BASE_DIR",
    "SCRATCH",
    "WORK",
    "Duration",
    "Flag",
    "Name",
    "OptionalDuration",
    "OutputPlace",
    "PositiveFloat",
    "PositiveInt",
    "ResolvedFile",
    "ResolvedPath",
    "ResolvedPlace",
    "Section",
    "Size",
    "base_dir",
    "config_error",
    "describe_problems",
    "parse_bytes",
    "parse_duration",
    "parse_timeout",
    "parse_yaml",
    "read_yaml",
]

_MAX_BYTES = 16 << 20
_MAX_REPORTED = 40

BASE_DIR = "base_dir"
"""Key of pydantic's validation context: the folder that relative paths are relative to."""
SCRATCH = "scratch"
"""Key of pydantic's validation context: the `skygraft.places.Scratch` for what lies in stores; None for the default."""
WORK = "work"
"""Key of pydantic's validation context: the `skygraft.places.Scratch` for outputs on their way to a store."""


def base_dir(info: ValidationInfo) -> Path:
    """Return the folder that relative paths are relative to."""
    return Path((info.context or {}).get(BASE_DIR, Path.cwd()))


def _resolve(path: Path, info: ValidationInfo) -> Path:
    return path if is_copy(path) else Path(os.path.normpath(base_dir(info) / home_expanded(path)))


def _of_url(value: Any, info: ValidationInfo) -> Any:
    """Replace a URL by the path that stands for it on this machine."""
    from skygraft.places.urls import lost_slash  # most configurations have no URL

    url = lost_slash(value) if isinstance(value, Path) else value
    if not is_url(url):
        return value
    from skygraft.places import checked_url, local_path

    return local_path(checked_url(url), (info.context or {}).get(SCRATCH))


def _output_of_url(value: Any, info: ValidationInfo) -> Any:
    path = _of_url(value, info)
    if path is value:
        return value
    from skygraft.place_names import WORK_KIND, as_kind

    work = (info.context or {}).get(WORK)
    if work is None:
        return as_kind(path, WORK_KIND)
    work.make()
    return work.path(shown_place(path), WORK_KIND)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no such file: {path}")
    return path


ResolvedPath = Annotated[Path, AfterValidator(_resolve)]
ResolvedFile = Annotated[ResolvedPath, AfterValidator(_existing)]
ResolvedPlace = Annotated[
    Path, BeforeValidator(_of_url), AfterValidator(_resolve), PlainSerializer(shown_place, str, when_used="json")
]
"""A path, or the URL of a file or folder in a store."""
OutputPlace = Annotated[
    Path, BeforeValidator(_output_of_url), AfterValidator(_resolve), PlainSerializer(shown_place, str, when_used="json")
]
"""A folder, or the URL of one in a store, which then is the work folder."""
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(min_length=1)]


_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0,
          "day": 86400.0, "days": 86400.0}  # fmt: skip
_BYTES = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(value: str | float) -> float:
    """Return a length of time in seconds.

    Parameters
    ----------
    value : str or float
        ``4h``, ``90 min``, ``2 d``, ``HH:MM:SS``, ``D-HH:MM:SS``, or a number of seconds. ``HH:MM`` is not allowed:
        some batch systems read it as hours and minutes, others as minutes and seconds.

    Raises
    ------
    ValueError
        If the value is none of these, or not positive.
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
        raise ValueError(f"{value!r} is not a positive length of time")
    return total


def parse_timeout(value: str | float | None) -> float:
    """Return a length of time in seconds, as `parse_duration`; infinity for None."""
    return math.inf if value is None else parse_duration(value)


def parse_bytes(value: str) -> int:
    """Return the bytes of a size such as ``16GiB``, ``500 MB`` or ``4G`` (GiB, as in batch systems).

    Raises
    ------
    ValueError
        If the value is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)", str(value).strip().lower())
    if match is None or float(match[1]) <= 0 or (match[3] and not match[2]):
        raise ValueError(f"{value!r} is not a size of memory or disk; give it like '16GiB' or '500 MB'")
    base = 1000 if match[4] and not match[3] else 1024
    return math.ceil(float(match[1]) * float(base ** _BYTES[match[2]]))


def _checked_by(parse: Callable[[Any], Any]) -> BeforeValidator:
    """Return a validator that calls `parse` for its errors and keeps the value as it was written."""

    def check(value: Any) -> Any:
        parse(value)
        return value

    return BeforeValidator(check)


# YAML reads an unquoted 04:00:00 as a number (sexagesimal), and an unquoted 4 too.
Duration = Annotated[str | float, _checked_by(parse_duration)]
OptionalDuration = Duration | None
Size = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v), _checked_by(parse_bytes)]


class Section(BaseModel):
    """Base of the models of the YAML's sections: unknown keys are errors, and instances cannot be changed."""

    # Validators are built when they are needed: that of the campaign holds those of its sections, which need no own.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, defer_build=True
    )

    foreign_key_hint: ClassVar[str] = ""
    """For a member of a union: what to add to the message for a key that other members have."""

    @field_validator("*", mode="before")
    @classmethod
    def _plausible(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans given for numbers, numbers beyond 64 bits, and text that no file name can contain."""
        if isinstance(value, bool) and _is_number(cls.model_fields[info.field_name or ""].annotation):
            wanted = "a number is needed, such as an integer"
            raise ValueError(f"{str(value).lower()} is given; {wanted} (YAML reads yes, no, on and off so)")
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, int) and abs(one) >= 2**63:
                raise ValueError("the number is beyond those of 64 bits")
            if isinstance(one, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in one):
                raise ValueError("the text contains a NUL character, or one that is not Unicode")
        return value


def _is_number(annotation: Any) -> bool:
    """True if a field takes numbers only, or numbers and None."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = set(get_args(annotation)) - {type(None)}
    return all(map(_is_number, members)) if members else annotation in (int, float)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loader of safe YAML in which a repeated key is an error, instead of the last one being used."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                what = "merge keys (<<) are not allowed; write the keys out"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in seen:
                what = f"the key {key!r} occurs twice in one mapping; put what is below both under one of them"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build one value; report one that does not fit its tag, with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, OverflowError, AttributeError, LookupError) as error:
            what = f"{shorten(str(node.value))!r} cannot be read as {str(node.tag).rpartition(':')[2]} ({error})"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error


def _read_text(path: Path, what: str) -> str:
    """Read a YAML file, which has to be a regular file of moderate size."""
    try:
        known = path.exists()
        if known and not (path.is_file() or path.is_dir()):  # reading a device may never end
            raise OSError("it is not a regular file")
        if known and path.stat().st_size > _MAX_BYTES:
            raise OSError(f"it has more than {_MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # also for bytes that are not UTF-8, and names that no file can have
        raise ConfigError(
            f"the {what} cannot be read ({error})", path=path, fix="Check the path and permissions"
        ) from error


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What the file is, for errors, such as ``configuration``.

    Returns
    -------
    object
        Content as plain Python types.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or is nested or repeated by aliases excessively.
    """
    text = _read_text(path, what)
    try:
        return parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"not valid YAML{error}", path=path, fix="Correct the file") from error


def parse_yaml(text: str) -> Any:
    """Return the value of YAML text as plain Python types.

    Parameters
    ----------
    text : str
        YAML text of one document.

    Raises
    ------
    YamlError
        If the text is not YAML, or is nested or repeated by aliases excessively.
    """
    check_yaml(text)
    try:
        # A subclass of SafeLoader: builds plain Python types only.
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise YamlError(yaml_problem(error)) from error


def _key_lines(path: Path) -> dict[str, int]:
    """Return the line of every key of a YAML file that has been read; see `skygraft.yaml_text.key_lines`."""
    try:
        return key_lines(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):  # the file has changed since
        return {}


def config_error(
    problems: Sequence[tuple[str, str]], what: str, path: str | os.PathLike[str] | None = None
) -> ConfigError:
    """Return one error for all problems of a configuration.

    Parameters
    ----------
    problems : sequence of (str, str)
        Dotted key and message of each problem, see `describe_problems`.
    what : str
        What has the problems, for the message, such as ``configuration``.
    path : path-like, optional
        The YAML file, for the lines of the keys.
    """
    if path is not None:
        lines = _key_lines(Path(path))
        problems = [(place, f"{problem}{_line(place, lines)}") for place, problem in problems]
    if len(problems) == 1:
        place, problem = problems[0]
        return ConfigError(problem, path=path, key=place)
    joined = "".join(f"\n  {place}: {problem}" for place, problem in problems[:_MAX_REPORTED])
    if len(problems) > _MAX_REPORTED:
        joined += f"\n  ... and {len(problems) - _MAX_REPORTED} more"
    return ConfigError(f"{len(problems)} problems in the {what}:{joined}", path=path)


def _line(place: str, lines: Mapping[str, int]) -> str:
    """Return the line of a key or, if the key is missing, of its section."""
    while place not in lines and "." in place:
        place = place.rpartition(".")[0]
    return f" (line {lines[place]})" if place in lines else ""


def describe_problems(error: ValidationError, schema: Any) -> list[tuple[str, str]]:
    """Describe what pydantic found wrong.

    Parameters
    ----------
    error : pydantic.ValidationError
        The problems.
    schema : type
        The model that was validated, or a union of models with different values of ``kind``.

    Returns
    -------
    list of (str, str)
        Dotted key and message of each problem. For an unknown key the message names the nearest known key, or the
        kinds that do have the key.
    """
    return [_describe(dict(problem), schema) for problem in error.errors(include_url=False)]


def _describe(problem: dict[str, Any], schema: Any) -> tuple[str, str]:
    location, section, siblings = _follow(problem["loc"], schema)
    place = ".".join(location) or "configuration"
    match problem["type"]:
        case "extra_forbidden" if section is not None:
            return place, _unknown_key(location[-1], section, siblings)
        case "missing":
            return place, "is missing"
        case "value_error":
            return place, str(problem["ctx"]["error"])
        case _:
            shown = json.dumps(problem.get("input"), default=str, skipkeys=True)
            return place, f"{_what_is_needed(problem, section)} (given: {shown[:80]})"


def _what_is_needed(problem: Mapping[str, Any], section: type[Section] | None) -> str:
    """Return pydantic's message in the terms of YAML."""
    field = section.model_fields.get(str(problem["loc"][-1])) if section is not None else None
    match problem["type"]:
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type":
            keys = [key for model in _models(field.annotation if field else None) for key in model.model_fields]
            return "must be a mapping" + (f" with keys of {', '.join(keys)}" if keys else ", written {key: value, ...}")
        case "tuple_type" | "list_type":
            return "must be a list, written [..., ...]"
    text = str(problem["msg"]).replace("Input should be ", "must be ", 1)
    return f"{text[0].lower()}{text[1:]}"


def _unknown_key(key: str, section: type[Section], siblings: Sequence[type[Section]]) -> str:
    kinds = [sibling.model_fields["kind"].default for sibling in siblings if key in sibling.model_fields]
    if kinds:
        hint = f": {section.foreign_key_hint}" if section.foreign_key_hint else ""
        return f"{key} is not of kind: {section.model_fields['kind'].default}, but of {', '.join(kinds)}{hint}"
    known = list(section.model_fields)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return "unknown key" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")


def _follow(location: Sequence[Any], schema: Any) -> tuple[list[str], type[Section] | None, Sequence[type[Section]]]:
    """Follow a location of pydantic's through the models.

    Pydantic puts the kind of a union's member, and names of its own validators, between the keys. Returns the keys
    alone, as in the file; the model that the last one belongs to, if any; and the other members of its union.
    """
    keys: list[str] = []
    section: type[Section] | None = None
    models, others, siblings = _models(schema), [], []
    named = False
    for part in location:
        if str(part).startswith("function-"):
            continue
        if named or isinstance(part, int):  # a key of a mapping, or a place in a list
            keys.append(str(part))
            named = False
            continue
        if len(models) > 1:
            others = [model for model in models if model.model_fields["kind"].default != part]
            models = [model for model in models if model not in others]
            continue
        keys.append(str(part))
        section = models[0] if models else None
        others, siblings = [], others
        annotation = section.model_fields[part].annotation if section and part in section.model_fields else None
        models = _models(annotation)
        named = get_origin(annotation) is dict
    return keys, section, siblings


def _models(schema: Any) -> list[type[Section]]:
    """Return the models in a type: itself, or the members of a union, a tuple or a mapping."""
    if get_origin(schema) in (Annotated, Union, UnionType, tuple, dict):
        members = get_args(schema)[:1] if get_origin(schema) is Annotated else get_args(schema)
        return [model for member in members for model in _models(member)]
    return [schema] if isinstance(schema, type) and issubclass(schema, Section) else []
