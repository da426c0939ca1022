"""Bounds on YAML text, checked before it is loaded: how deep it is nested, and how large its aliases make it."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["YamlError", "check_yaml", "key_lines", "yaml_problem"]

MAX_DEPTH = 50
MAX_NODES = 1_000_000
MAX_ALIASED = 10_000
"""Values that aliases may stand for in all: what a file of some kilobytes could make of itself is unbounded."""


class YamlError(ValueError):
    """Text is not YAML, or is YAML that nobody wrote by hand; its message follows on "not valid YAML"."""


def check_yaml(text: str) -> None:
    """Refuse YAML that is nested too deep, contains itself, or grows beyond bounds by its aliases.

    It is parsed, but nothing is built of it: time and memory are those of the text.

    Parameters
    ----------
    text : str

    Raises
    ------
    YamlError
        With line and column; also where the text is not YAML.
    """
    sizes: dict[str, int] = {}
    collections: list[tuple[str | None, int]] = []
    size = aliased = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in sizes:
                    inside = any(anchor == event.anchor for anchor, _ in collections)
                    reason = "stands inside of what it is the alias of" if inside else "is an alias of nothing"
                    raise YamlError(f"{_at(event.start_mark)}: *{event.anchor} {reason}")
                size += sizes[event.anchor]
                aliased += sizes[event.anchor]
            elif isinstance(event, yaml.CollectionStartEvent):
                collections.append((event.anchor, size))
                size += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = collections.pop()
                if anchor is not None:
                    sizes[anchor] = size - before
            elif isinstance(event, yaml.ScalarEvent):
                size += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            if len(collections) > MAX_DEPTH:
                raise YamlError(f"{_at(event.start_mark)}: nested more than {MAX_DEPTH} deep")
            if aliased > MAX_ALIASED or size > MAX_NODES:
                limit = f"{MAX_ALIASED} values" if aliased > MAX_ALIASED else f"{MAX_NODES} values"
                by = "its aliases stand for" if aliased > MAX_ALIASED else "it holds"
                raise YamlError(f"{_at(event.start_mark)}: {by} more than {limit}")
    except yaml.YAMLError as error:
        raise YamlError(yaml_problem(error)) from error


def key_lines(text: str) -> dict[str, int]:
    """The line of every key of YAML text that `check_yaml` has passed, by its place: ``survey.images``.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict of str to int
        Lines from 1 on; entries of lists go by their number.
    """
    lines: dict[str, int] = {}

    def walk(node: yaml.Node | None, place: str) -> None:
        inner: list[tuple[str, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            inner = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            inner = [(str(i), value, value) for i, value in enumerate(node.value)]
        for name, marked, value in inner:
            lines.setdefault(f"{place}{name}", marked.start_mark.line + 1)
            walk(value, f"{place}{name}.")

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return lines


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with YAML text, in one line: `` at line 3, column 1: what``, or ``: what`` without a place."""
    problem = str(getattr(error, "problem", None) or " ".join(str(error).split()) or "cannot be parsed")
    if problem.startswith("but "):
        problem = f"{error.context} {problem}"  # type: ignore[attr-defined]
    return f"{_at(getattr(error, 'problem_mark', None))}: {problem}"


def _at(mark: Any) -> str:
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
