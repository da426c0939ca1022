"""Expressions that select rows of a catalogue: parsed by a grammar of their own, never evaluated as Python.

For example ``mag_r < 24 and not isnan(period)``, ``band in ["g", "r"] and mjd between 60000 and 60100``, or
``(mag_g - mag_r) > 0.6 or source_type == "Star"``. In order of how tightly they bind:

* numbers, texts in quotes, ``true``, ``false``, names of columns (in backquotes if they are no plain words), brackets,
  and the functions ``abs``, ``sqrt``, ``log10``, ``isnan`` and ``isfinite``;
* ``-`` of one value; ``*`` and ``/``; ``+`` and ``-``;
* comparisons ``<``, ``<=``, ``>``, ``>=``, ``==`` (or ``=``) and ``!=``, which may be chained as in
  ``20 < mag_r <= 24``; ``between ... and ...``, both ends included; ``in [...]`` and ``not in [...]``;
* ``not``; ``and``; ``or``.

A missing number (NaN) is smaller, larger and equal to nothing. Whole numbers are compared exactly, arithmetic is in
double precision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from skygraft.catalog.column_maps import nearest
from skygraft.errors import CatalogError

__all__ = ["Kind", "Node", "check_types", "parse", "problem"]

type Kind = Literal["number", "text", "truth"]
"""Kind of a value; `truth` is true or false."""

LONGEST = 10_000
DEEPEST = 30
"""Levels of brackets and signs; each takes ten calls of the parser."""
TALLEST = 200
"""Levels of the parsed expression: of a chain such as 1 + 1 + 1, which is evaluated level by level."""
MOST = 2_000

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<text>"[^"]*"|'[^']*')
  | (?P<name>[^\W\d]\w*|`[^`]+`)
  | (?P<sign><=|>=|==|!=|<>|[-+*/<>=(),\[\]])
    )""",
    re.VERBOSE,
)
_WORDS = ("and", "or", "not", "in", "between", "true", "false")
_COMPARE = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "==", "=": "==", "!=": "!=", "<>": "!="}
_FUNCTIONS: dict[str, Kind] = {
    "abs": "number",
    "sqrt": "number",
    "log10": "number",
    "isnan": "truth",
    "isfinite": "truth",
}
_HINTS = {
    "&": "write 'and'",
    "|": "write 'or'",
    "~": "write 'not'",
    "!": "write 'not'",
    "%": "there is + - * /",
    ".": "names have no dots; put one that has in backquotes",
}
_A = {"number": "a number", "text": "a text", "truth": "a condition"}


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    Parameters
    ----------
    op : str
        ``value``, ``name``, ``list``, a function's name, an operator, ``negative``, ``not``, ``and``, ``or``, ``in`` or
        ``between``.
    at : int
        Where it begins in the text, from 0.
    parts : tuple of Node
        What it is made of.
    value : object
        Of a value, or the name of a column.
    """

    op: str
    at: int
    parts: tuple[Node, ...] = ()
    value: object = None

    def names(self) -> dict[str, int]:
        """The columns that it needs, each with the first place where it stands."""
        found: dict[str, int] = {}
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if node.op == "name":
                name = str(node.value)
                found[name] = min(node.at, found.get(name, node.at))
            waiting += node.parts
        return dict(sorted(found.items(), key=lambda item: item[1]))


def problem(text: str, at: int, message: str, fix: str = "Correct the expression") -> CatalogError:
    """Return the error of an expression, with the place in it: its column, and the text around that.

    Parameters
    ----------
    text : str
        The expression.
    at : int
        Where the problem is, from 0.
    message : str
        What it is.
    fix : str
        What to do.
    """
    start, stop = max(0, at - 30), min(len(text), at + 30)
    around = f"{'...' if start else ''}{text[start:at]} >>> {text[at:stop]}{'...' if stop < len(text) else ''}"
    where = f"at its end, {around!r}" if at >= len(text) else f"at character {at + 1}, {around!r}"
    return CatalogError(f"the expression cannot be used: {message} ({where})", key="select", fix=fix)


def parse(text: str) -> Node:
    """Parse an expression.

    Parameters
    ----------
    text : str

    Returns
    -------
    Node

    Raises
    ------
    CatalogError
        If it does not follow the grammar, or is too long or nested too deep; with the place in it.
    """
    if len(text) > LONGEST:
        raise CatalogError(
            f"the expression has {len(text)} characters; at most {LONGEST} are read",
            key="select",
            fix="Mark the rows in a column of the catalogue, and select by that",
        )
    parser = _Parser(text)
    node = parser.either(0)
    parser.end()
    waiting = [(node, 1)]
    while waiting:
        inner, level = waiting.pop()
        if level > TALLEST:
            raise problem(text, inner.at, f"more than {TALLEST} operations follow each other", "Shorten it")
        waiting += [(part, level + 1) for part in inner.parts]
    return node


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent; the depth of brackets and signs is counted, so that it cannot exhaust the stack."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split())
        self._next = 0
        self._n_nodes = 0

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        while self._text[at:].strip():
            match = _TOKEN.match(self._text, at)
            if match is None or match.lastgroup is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                odd = self._text[at]
                hint = "the quotes are not closed" if odd in "\"'`" else _HINTS.get(odd, "")
                raise problem(self._text, at, f"{odd!r} has no meaning here" + (f": {hint}" if hint else ""))
            kind, word = match.lastgroup, match[match.lastgroup]
            if kind == "name" and word.lower() in _WORDS:
                kind, word = "word", word.lower()
            tokens.append(_Token(kind, word, match.start(match.lastgroup)))
            at = match.end()
        tokens.append(_Token("end", "", len(self._text)))
        if len(tokens) > MOST:
            raise problem(self._text, tokens[MOST].at, f"it has more than {MOST} words and signs")
        return tokens

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        token = self._here
        if token.kind in ("sign", "word") and token.text in texts:
            self._next += 1
            return token
        return None

    def _expect(self, text: str, why: str) -> None:
        if self._take(text) is None:
            raise self._unexpected(f"{text!r} {why}")

    def _unexpected(self, wanted: str) -> CatalogError:
        token = self._here
        found = "it ends" if token.kind == "end" else f"there is {token.text!r}"
        return problem(self._text, token.at, f"{found}, and {wanted} is needed")

    def end(self) -> None:
        """Raise unless everything was read."""
        if self._here.kind != "end":
            raise self._unexpected("an operator, such as 'and',")

    def _deeper(self, depth: int) -> int:
        if depth >= DEEPEST:
            raise problem(self._text, self._here.at, f"it is nested more than {DEEPEST} deep")
        return depth + 1

    def either(self, depth: int) -> Node:
        """Conditions joined by ``or``."""
        return self._joined("or", depth)

    def _joined(self, word: str, depth: int) -> Node:
        inner = self._negated if word == "and" else self._all
        parts = [inner(depth)]
        while self._take(word):
            parts.append(inner(depth))
        return parts[0] if len(parts) == 1 else Node(word, parts[0].at, tuple(parts))

    def _all(self, depth: int) -> Node:
        return self._joined("and", depth)

    def _negated(self, depth: int) -> Node:
        token = self._take("not")
        if token:
            return Node("not", token.at, (self._negated(self._deeper(depth)),))
        return self._comparison(depth)

    def _comparison(self, depth: int) -> Node:
        left = self._sum(depth)
        found: list[Node] = []
        while self._here.text in _COMPARE and self._here.kind == "sign":
            sign = self._tokens[self._next]
            self._next += 1
            right = self._sum(depth)
            found.append(Node(_COMPARE[sign.text], sign.at, (left, right)))
            left = right
        if found:
            return found[0] if len(found) == 1 else Node("and", found[0].at, tuple(found))
        negated = self._here if self._here.text == "not" and self._here.kind == "word" else None
        if negated:
            self._next += 1
        token = self._take("in", "between")
        if token is None:
            if negated:
                raise self._unexpected("'in' or 'between'")
            return left
        if token.text == "in":
            node = Node("in", token.at, (left, self._list()))
        else:
            low = self._sum(depth)
            self._expect("and", "between the two ends of 'between'")
            node = Node("between", token.at, (left, low, self._sum(depth)))
        return Node("not", negated.at, (node,)) if negated else node

    def _list(self) -> Node:
        begin = self._here
        closing = {"[": "]", "(": ")"}.get(begin.text) if begin.kind == "sign" else None
        if closing is None:
            raise self._unexpected("a list of values, such as [1, 2],")
        self._next += 1
        values = [self._literal()]
        while self._take(","):
            values.append(self._literal())
        self._expect(closing, "at the end of the list")
        return Node("list", begin.at, tuple(values))

    def _literal(self) -> Node:
        minus = self._take("-")
        token = self._here
        if token.kind == "number":
            self._next += 1
            value = _number(token.text)
            return Node("value", token.at, value=-value if minus else value)
        if token.kind == "text" and not minus:
            self._next += 1
            return Node("value", token.at, value=token.text[1:-1])
        raise self._unexpected("a number or a text in quotes")

    def _sum(self, depth: int) -> Node:
        node = self._product(depth)
        while sign := self._take("+", "-"):
            node = Node(sign.text, sign.at, (node, self._product(depth)))
        return node

    def _product(self, depth: int) -> Node:
        node = self._signed(depth)
        while sign := self._take("*", "/"):
            node = Node(sign.text, sign.at, (node, self._signed(depth)))
        return node

    def _signed(self, depth: int) -> Node:
        sign = self._take("-", "+")
        if sign is None:
            return self._atom(depth)
        inner = self._signed(self._deeper(depth))
        if sign.text == "+":
            return inner
        if inner.op == "value" and isinstance(inner.value, (int, float)):
            return Node("value", sign.at, value=-inner.value)
        return Node("negative", sign.at, (inner,))

    def _atom(self, depth: int) -> Node:
        token = self._here
        if self._take("("):
            inner = self.either(self._deeper(depth))
            self._expect(")", f"for the bracket at character {token.at + 1}")
            return inner
        if token.kind == "word" and token.text in ("true", "false"):
            self._next += 1
            return Node("value", token.at, value=token.text == "true")
        if token.kind in ("number", "text"):
            return self._literal()
        if token.kind != "name":
            raise self._unexpected("a value")
        self._next += 1
        if not self._take("("):
            return Node("name", token.at, value=token.text.strip("`"))
        name = token.text.lower()
        if name not in _FUNCTIONS:
            raise problem(
                self._text,
                token.at,
                f"there is no function {token.text!r}; there are {', '.join(_FUNCTIONS)}",
                nearest(name, _FUNCTIONS) or "Use one of these",
            )
        inner = self.either(self._deeper(depth))
        self._expect(")", f"after what {name} is of")
        return Node(name, token.at, (inner,))


def _number(text: str) -> int | float:
    return int(text) if text.isdecimal() and len(text) < 20 and int(text) < 2**63 else float(text)


def check_types(node: Node, kinds: Mapping[str, Kind], text: str) -> Kind:
    """Check that an expression compares what can be compared, and return the kind of its value.

    Parameters
    ----------
    node : Node
        From `parse`.
    kinds : mapping of str to Kind
        Kind of every name that may stand in it.
    text : str
        The expression, for errors.

    Raises
    ------
    CatalogError
        If a name is unknown, or the kinds do not fit.
    """
    if node.op == "value":
        return "truth" if isinstance(node.value, bool) else "text" if isinstance(node.value, str) else "number"
    if node.op == "name":
        name = str(node.value)
        if name not in kinds:
            raise problem(
                text,
                node.at,
                f"there is no column {name!r}",
                nearest(name, kinds, 2) or f"The names are {', '.join(list(kinds)[:40])}",
            )
        return kinds[name]
    found = [check_types(part, kinds, text) for part in node.parts]
    if node.op == "list":
        if len(set(found)) > 1:
            raise problem(text, node.at, "the list has both numbers and texts")
        return found[0]
    if node.op in ("and", "or", "not"):
        _all_of("truth", node, found, text, f"{node.op!r} joins conditions" if node.op != "not" else "'not' turns one")
        return "truth"
    if node.op in ("==", "!=", "in"):
        if len(set(found)) > 1:
            raise problem(
                text,
                node.at,
                f"{_A[found[0]]} is compared with {_A[found[1]]}",
                "Compare numbers with numbers, and texts, in quotes, with texts",
            )
        return "truth"
    if node.op in _FUNCTIONS:
        _all_of("number", node, found, text, f"{node.op} needs a number")
        return _FUNCTIONS[node.op]
    arithmetic = node.op in ("+", "-", "*", "/", "negative")
    _all_of("number", node, found, text, f"{'-' if node.op == 'negative' else node.op} needs numbers")
    return "number" if arithmetic else "truth"


def _all_of(wanted: Kind, node: Node, found: list[Kind], text: str, why: str) -> None:
    for part, kind in zip(node.parts, found, strict=True):
        if kind != wanted:
            raise problem(text, part.at, f"{why}, and this is {_A[kind]}")
