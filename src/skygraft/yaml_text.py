"""Check YAML text before it is loaded: nesting depth, number of values, and expansion of aliases."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["YamlError", "check_yaml", "key_lines", "yaml_problem"]

MAX_DEPTH = 50
MAX_NODES = 1_000_000
MAX_ALIASED = 10_000
"""Largest number of values that aliases may expand to; a few kilobytes of YAML could expand without bounds."""


class YamlError(ValueError):
    """Text is not valid YAML, or exceeds the limits; the message continues the words "not valid YAML"."""


def check_yaml(text: str) -> None:
    """Check that text is YAML that is not nested too deep, does not contain itself, and expands within limits.

    The text is parsed without building objects, so time and memory are proportional to its length.

    Parameters
    ----------
    text : str

    Raises
    ------
    YamlError
        If not, with line and column.
    """
    sizes: dict[str, int] = {}
    collections: list[tuple[str | None, int]] = []
    size = aliased = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in sizes:
                    inside = any(anchor == event.anchor for anchor, _ in collections)
                    reason = "is inside the value that it refers to" if inside else "refers to no anchor"
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
    """Return the line number of every key in YAML text that `check_yaml` has accepted, by path (``survey.images``).

    Parameters
    ----------
    text : str

    Returns
    -------
    dict of str to int
        Line numbers from 1; entries of lists are named by their index.
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
    """Return an error of the YAML parser as one line: `` at line 3, column 1: what``, or ``: what`` without place."""
    problem = str(getattr(error, "problem", None) or " ".join(str(error).split()) or "cannot be parsed")
    if problem.startswith("but "):
        problem = f"{error.context} {problem}"  # type: ignore[attr-defined]
    return f"{_at(getattr(error, 'problem_mark', None))}: {problem}"


def _at(mark: Any) -> str:
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
