"""Provenance of outputs as a W3C PROV-JSON document, and the versions of the software.

`PROV-JSON <https://www.w3.org/submissions/prov-json/>`_ names *entities* (files, settings), *activities* (the run)
and *agents* (software), and the relations between them. A survey of a million images is one entity with a number and
a fingerprint, not a million; each image's own story is in its record.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

__all__ = ["PACKAGES", "ProvGraph", "software_versions"]

PACKAGES = ("skygraft", "numpy", "astropy", "galsim", "numba", "scipy", "xarray", "pyarrow", "starlink-pyast")
"""Packages whose versions are recorded."""

_PREFIX = {
    "sg": "urn:skygraft:",
    "prov": "http://www.w3.org/ns/prov#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}


@functools.lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def software_versions() -> dict[str, str]:
    """Look up the versions of Python, skygraft, and the packages that pixels depend on.

    Returns
    -------
    dict of str to str
        Name of the package to its version.
    """
    return dict(_versions())


def _typed(value: Any) -> Any:
    """Convert a literal to PROV-JSON: text and truth values as they are, numbers with their XSD type."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return {"$": str(value), "type": "xsd:long"}
    if isinstance(value, float):
        return {"$": repr(value), "type": "xsd:double"}
    if isinstance(value, list | tuple):
        return [_typed(item) for item in value]
    return str(value)


def _kinds(kinds: Sequence[str]) -> Any:
    typed = [{"$": kind, "type": "prov:QUALIFIED_NAME"} for kind in kinds]
    return typed[0] if len(typed) == 1 else typed


def _attributes(kind: str | Sequence[str], label: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [kind] if isinstance(kind, str) else list(kind)
    content: dict[str, Any] = {"prov:type": _kinds(kinds), "prov:label": label}
    for name, value in attributes.items():
        # Empty attributes are left out; PROV-JSON has no null.
        if value is not None and value not in ([], ()):
            content[f"sg:{name}"] = _typed(value)
    return content


class ProvGraph:
    """A PROV-JSON document, built piece by piece and kept in that order.

    Identifiers and attributes are given without their prefix, ``sg:``.
    """

    _RELATIONS: ClassVar[dict[str, tuple[str, str]]] = {
        "used": ("prov:activity", "prov:entity"),
        "wasGeneratedBy": ("prov:entity", "prov:activity"),
        "wasAssociatedWith": ("prov:activity", "prov:agent"),
        "wasDerivedFrom": ("prov:generatedEntity", "prov:usedEntity"),
        "wasInformedBy": ("prov:informed", "prov:informant"),
        "hadMember": ("prov:collection", "prov:entity"),
    }

    def __init__(self) -> None:
        self._things: dict[str, dict[str, Any]] = {"entity": {}, "activity": {}, "agent": {}}
        self._relations: dict[str, dict[str, Any]] = {}

    def entity(self, name: str, kind: str | Sequence[str], label: str, /, **attributes: Any) -> str:
        """Add a thing: a file, many files, a setting.

        Parameters
        ----------
        name : str
            Its identifier, without prefix.
        kind : str or sequence of str
            Its PROV types.
        label : str
            For people.
        **attributes
            More about it; None and empty lists are left out.

        Returns
        -------
        str
            Its name.
        """
        return self._add("entity", name, _attributes(kind, label, attributes))

    def activity(
        self, name: str, kind: str, label: str, started: str | None, ended: str | None, /, **attributes: Any
    ) -> str:
        """Add something that was done.

        Parameters
        ----------
        name : str
            Its identifier, without prefix.
        kind : str
            Its PROV type.
        label : str
            For people.
        started, ended : str or None
            ISO 8601 times, with the offset from UTC.
        **attributes
            More about it; None and empty lists are left out.

        Returns
        -------
        str
            Its name.
        """
        times = {"prov:startTime": started, "prov:endTime": ended}
        content = {key: time for key, time in times.items() if time} | _attributes(kind, label, attributes)
        return self._add("activity", name, content)

    def agent(self, name: str, label: str, /, **attributes: Any) -> str:
        """Add software that did something.

        Parameters
        ----------
        name : str
            Its identifier, without prefix.
        label : str
            For people.
        **attributes
            More about it; None and empty lists are left out.

        Returns
        -------
        str
            Its name.
        """
        return self._add("agent", name, _attributes("prov:SoftwareAgent", label, attributes))

    def relate(self, relation: str, first: str, second: str, /, **more: str) -> None:
        """Add a relation between two things.

        Parameters
        ----------
        relation : str
            Such as ``"used"``: an activity, then an entity.
        first, second : str
            Names, in the order of the relation's roles.
        **more : str
            Names in further ``prov:`` roles.
        """
        roles = self._RELATIONS[relation]
        content = {role: f"sg:{name}" for role, name in zip(roles, (first, second), strict=True)}
        content |= {f"prov:{role}": f"sg:{name}" for role, name in more.items()}
        found = self._relations.setdefault(relation, {})
        found[f"_:{relation}{len(found)}"] = content

    def _add(self, what: str, name: str, content: dict[str, Any]) -> str:
        self._things[what][f"sg:{name}"] = content
        return name

    def to_dict(self) -> dict[str, Any]:
        """Give the document as JSON types; entities come first."""
        return {**self._things, "prefix": dict(_PREFIX), **self._relations}
