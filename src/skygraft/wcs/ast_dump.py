"""Check AST's native text dumps and read objects from them: AST crashes the process on some damaged dumps."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from skygraft.errors import WcsError
from skygraft.lazy import lazy_module

Ast = lazy_module("starlink.Ast")

__all__ = ["ast_errors", "dump_problem", "read_dump"]

_FIX = "Read the image with the software that wrote it, and check its WCS"
_ALLOWED = re.compile(r"[\t\n\r\x20-\x7e]*")
_LINE = re.compile(
    r"(?P<mark>Begin|End|IsA) (?P<kind>[A-Z]\w*)(?:\s.*)?|(?P<key>[A-Za-z]\w*) =(?: (?P<value>\S.*))?\s*", re.ASCII
)
_PARENTS = {
    "FrameSet": (("Frame",),),
    "SkyFrame": (("Frame",),),
    "Frame": ((), ("Mapping",)),
    "Axis": ((),),
    "SkyAxis": ((), ("Axis",)),
}
"""Allowed sequences of IsA lines for each class; all mappings have IsA Mapping."""
_OF_ANY = {"ID", "Ident", "Invert", "Report", "RefCnt", "UseDfs"}
"""Attributes that a FrameSet may have as a Frame; others are written only as comments, for its current frame."""
_MOST_COORDINATES = 99
_NEEDED = {
    "CmpMap": ("MapA", "MapB"),
    "TranMap": ("MapA", "MapB"),
    "RateMap": ("Map",),
    "MatrixMap": ("Form",),
    "ZoomMap": ("Zoom",),
    "WcsMap": ("Type",),
    "PcdMap": ("PcdCn0", "PcdCn1", "Disco"),
    "LutMap": ("Nlut",),
}
"""Parts that AST always writes; if one is missing, it silently uses a default or an undefined value."""
_COUNTED = re.compile(r"(?P<family>[A-Za-z]+?)(?P<number>\d+)")


def read_dump(text: str, what: str, path: str | None = None) -> Any:
    """Read the AST object of a dump.

    Parameters
    ----------
    text : str
        AST's native dump.
    what : str
        Description of the object for errors, such as "the WCS".
    path : str, optional
        The file, for errors.

    Returns
    -------
    starlink.Ast.Object

    Raises
    ------
    WcsError
        If the text does not have AST's layout, parts are missing, or AST cannot read it.
    """
    problem = dump_problem(text)
    if problem is not None:
        raise WcsError(f"the AST dump of {what} is damaged: {problem}", path=path, fix=_FIX)
    with ast_errors(f"the AST dump of {what} cannot be read", path):
        # AST writes a tab before comments, which it cannot read.
        return Ast.Channel(text.replace("\t", " ").splitlines()).read()


@contextlib.contextmanager
def ast_errors(what: str, path: str | None = None) -> Iterator[None]:
    """Context in which AST's exceptions become a `WcsError` that says what failed.

    Every call of AST needs it: AST checks some parts of an object only when the object is used.

    Parameters
    ----------
    what : str
        What failed, such as "AST cannot evaluate the WCS".
    path : str, optional
        The file, for errors.

    Raises
    ------
    WcsError
    """
    try:
        yield
    except WcsError:
        raise
    except (Ast.AstError, ValueError, TypeError, AttributeError, OverflowError, SystemError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise WcsError(f"{what}: {reason}", path=path, fix=_FIX) from error


def dump_problem(text: str) -> str | None:
    """Return what is wrong with the layout of a dump, or None if it is sound.

    Parameters
    ----------
    text : str
        AST's native dump.

    Returns
    -------
    str or None
    """
    good = _ALLOWED.match(text)
    if good is None or good.end() != len(text):
        at = 0 if good is None else good.end()
        return f"character {text[at]!r} in line {text.count(chr(10), 0, at) + 1}"
    stack: list[_Object] = []
    wants_object, done = False, False
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("\t")[0].strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or done:
            return f"line {number} is {line[:40]!r}"
        if wants_object and match["mark"] != "Begin":
            return f"line {number} is {line[:40]!r}, where an object should begin"
        wants_object = False
        if match["mark"] == "Begin":
            stack.append(_Object(match["kind"]))
        elif not stack:
            return f"line {number} is {line[:40]!r}, outside of any object"
        elif match["mark"] == "End":
            ended = stack.pop()
            if ended.kind != match["kind"]:
                return f"line {number} ends a {match['kind']} inside of a {ended.kind}"
            if (missing := _missing(ended)) is not None:
                return missing
            done = not stack
        elif match["mark"] == "IsA":
            if match["kind"] != "Object":  # which everything is
                stack[-1].parents.append(match["kind"])
        else:
            one = stack[-1]
            value = (match["value"] or "").strip()
            # Of a value of two words AST reads the first or none, so that sizes in the object no longer agree.
            if " " in value and not value.startswith('"') and "#" not in value:
                return f"line {number} gives {match['key']} two values, {value[:40]!r}"
            if match["key"] in one.parts:
                return f"line {number} gives {match['key']} a second time"
            if one.kind == "FrameSet" and not one.parents and match["key"] not in _OF_ANY:
                return f"line {number} is {line[:40]!r}, which is not part of a FrameSet"
            one.parts[match["key"]] = match["value"] or ""
            wants_object = not match["value"]
    return None if done else "it ends before its object does"


@dataclass
class _Object:
    """An object of a dump: its class, its parent classes (IsA lines), and its parts."""

    kind: str
    parents: list[str] = field(default_factory=list)
    parts: dict[str, str] = field(default_factory=dict)

    def holds(self, key: str) -> bool:
        """Whether this part is an object; its value is then empty."""
        return key in self.parts and key.startswith("Map")


def _whole(parts: dict[str, str], key: str) -> int | None:
    value = parts.get(key, "").split()
    return int(value[0]) if value and value[0].isdecimal() and len(value[0]) <= 6 else None


def _missing(one: _Object) -> str | None:
    """Describe a part that an object declares but does not have; None if it is complete."""
    kind, parts = one.kind, one.parts
    allowed = (("Mapping",),) if kind.endswith("Map") else _PARENTS.get(kind)
    if allowed is not None and tuple(one.parents) not in allowed:
        return f"a {kind} that is {' and '.join(f'a {name}' for name in one.parents) or 'nothing else'}"
    found = Counter(m["family"] for key in parts if (m := _COUNTED.fullmatch(key)) is not None)
    if kind == "FrameSet":
        n = _whole(parts, "Nframe")
        if not n or found["Frm"] != n:
            return f"a FrameSet of {'no stated number of' if n is None else n} frames has {found['Frm']}"
        for key in ("Base", "Currnt"):
            if key in parts and not 1 <= (_whole(parts, key) or 0) <= n:
                return f"{key} = {parts[key]} of {n} frames"
    if kind in ("Frame", "SkyFrame"):
        n = _whole(parts, "Naxes")
        if not n or found["Ax"] != n:
            return f"a {kind} of {'no stated number of' if n is None else n} axes has {found['Ax']}"
    if kind.endswith("Map") and not 1 <= (_whole(parts, "Nin") or 0) <= _MOST_COORDINATES:
        return f"a {kind} of {parts.get('Nin', 'no stated number of')} input coordinates"
    lacking = [key for key in _NEEDED.get(kind, ()) if not (parts.get(key) or one.holds(key))]
    if lacking:
        return f"a {kind} lacks {' and '.join(lacking)}"
    if kind == "MatrixMap":
        return _missing_element(parts, found)
    if kind == "PolyMap":
        return _missing_term(parts, found)
    if kind == "LutMap" and found["L"] != _whole(parts, "Nlut"):
        return f"a LutMap has {found['L']} elements, and states another number"
    return None


def _missing_element(parts: dict[str, str], found: Counter[str]) -> str | None:
    """Describe missing elements of a MatrixMap, which AST would leave undefined; None if it is complete."""
    n_in, n_out = _whole(parts, "Nin") or 0, _whole(parts, "Nout") or _whole(parts, "Nin") or 0
    form = parts["Form"].split()[0].strip('"')
    sizes = {"Unit": 0, "Diagonal": min(n_in, n_out), "Full": n_in * n_out}
    if form not in sizes:
        return f"a MatrixMap of form {form!r}"
    for name, allowed in (("M", {sizes[form]}), ("IM", {0, sizes[form]})):
        if found[name] not in allowed:
            return f"a MatrixMap of {n_in} by {n_out} coordinates, form {form}, has {found[name]} elements {name}"
    return None


def _missing_term(parts: dict[str, str], found: Counter[str]) -> str | None:
    """Describe inconsistencies of a PolyMap: missing coefficients are zero in AST, wrong powers access wrong memory."""
    n_in, n_out = _whole(parts, "Nin") or 0, _whole(parts, "Nout") or _whole(parts, "Nin") or 0
    for letter, n_from, n_to in (("F", n_in, n_out), ("I", n_out, n_in)):
        counts, values = f"NC{letter}", f"C{letter}"
        announced = [_whole(parts, f"{counts}{i + 1}") for i in range(found[counts])]
        if None in announced or sum(n or 0 for n in announced) != found[values]:
            return f"a PolyMap has {found[values]} coefficients {values}, and states another number"
        if announced and len(announced) != n_to:
            return f"a PolyMap of {n_to} coordinates has {len(announced)} numbers {counts}"
        limits = [_whole(parts, f"MP{letter}{i + 1}") or 0 for i in range(n_from)]
        largest = [0] * n_from
        for key, value in parts.items():
            if not key.startswith(f"P{letter}") or not key[2:].isdecimal():
                continue
            place, power = int(key[2:]) - 1, _whole(parts, key)
            if power is None or not 0 <= place < found[values] * n_from:
                return f"{key} = {value} of a PolyMap of {found[values]} coefficients"
            largest[place % n_from] = max(largest[place % n_from], power)
        if announced and largest != limits:
            return f"a PolyMap has powers {letter} up to {largest}, and states {limits}"
    return None
