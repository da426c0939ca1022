"""Damage files in ways that their format knows: one function a kind of damage, each drawn from a generator.

Every function returns a `Change`: the new bytes, what was done in words, and whether information was only taken away.
An input that lost information and is accepted must still mean what it meant before: a reader that fills the hole with
a number of its own is wrong in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BLOCK, CARD = 2880, 80
NUMBERS = ("0", "-1", "1", "2147483647", "-2147483648", "1E30", "-1E300", "1E-320", "NaN", "T", "'text'", "''", "1E400")
WORTHY = re.compile(
    r"^(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(FORM|TYPE|SCAL|ZERO|FLAG|NULL|DIM)\d+|THEAP|Z[A-Z]+\d*|"
    r"BSCALE|BZERO|BLANK|BUNIT|EXTTYPE|EXTNAME|C(TYPE|RVAL|RPIX|UNIT|DELT)\d[A-Z]?|CD\d_\d|PC\d_\d|PV\d_\d+|[AB]P?_\d_\d|"
    r"RADESYS|EQUINOX|LTV\d|MAGZ\w*|ZEROPOINT|CALAPRAD|GAIN|EXPTIME|MJD\S*|TIMESYS|FILTER|EXPNUM|CCDNUM|MP_\w+|AR_\w+|"
    r"\w*_ID|ARCHIVE_ID_\w+|EXPINFO_V|POL\w+|PSF\w+)$"
)
"""Cards that a reader has reason to look at; the others are drawn as well, less often."""
BY_STANDARD: dict[str, str] = {
    r"PC\d+_\d+|PC00\d00\d": "an absent element of the matrix is that of the identity",
    r"CD\d+_\d+": "an absent element of a CD matrix that has others is zero",
    r"PV\d+_\d+|PROJP\d": "absent parameters of a projection have defaults",
    r"[AB]P?_\d_\d": "an absent SIP coefficient is zero",
    r"AMD[XY]\d+": "an absent term of a plate solution is zero",
    r"RADESYS|EQUINOX|EPOCH|CUNIT\d|LONPOLE|LATPOLE": "ICRS or FK5 of 2000, degrees, the standard's pole",
    r"LTV\d": "an image without LTV is no section of another",
    r"EXTNAME|EXTVER|EXTLEVEL": "an HDU needs no name; its plane is then not found",
    r"BSCALE|BZERO|BLANK|TSCAL\d+|TZERO\d+|TNULL\d+|ZBLANK|ZSCALE|ZZERO": "no scaling, no blanks",
    r"ZQUANTIZ|ZDITHER0|ZNAME\d|ZVAL\d|ZTILE\d|ZMASKCMP": "no dither, default parameters, one row a tile",
    r"FILTER|MJD.*|DATE.*|TIMESYS|EXPTIME|GAIN|UT.*": "of no weight for noise-free sources of a band given",
    r"MP_\w+": "a bit of the mask needs no name",
    r"TDIM\d+|TUNIT\d+|TDISP\d+|THEAP": "a cell is a vector, a number has no unit, the heap follows the table",
}
"""Keywords whose absence has a meaning by the standard or the format, with the reason: no reader could see it."""
_BY_STANDARD = re.compile("(" + "|".join(BY_STANDARD) + ")$")
STRUCTURE = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(FORM|TYPE)\d+|Z(IMAGE|CMPTYPE|BITPIX|NAXIS\d*|TILE\d)|"
    r"C(TYPE|RVAL|RPIX|DELT)\d|CD\d_\d|CRVAL\dA|BSCALE|BZERO|EXTTYPE|MAGZERO|CALAPRAD|AR_HDU|\w+_ID|PSF_SAMP|POLN\w+)$"
)
"""Keywords that a reader cannot take twice with two values."""


@dataclass(frozen=True)
class Change:
    """Damaged bytes, what was done to them, and what was lost.

    `loses` names the information that was only taken away (a keyword, an HDU, a row), which nothing may replace;
    `plain` says that the reader sees its place: a card is there but blank, text or NaN. `keeps` says that all the
    information is still there, in another form. Of a table `column` and `row` say where, and `value` what is there now.
    """

    data: bytes
    what: str
    loses: str = ""
    plain: bool = False
    keeps: bool = False
    column: str = ""
    row: int = -1
    value: float | None = 0.0

    @property
    def noticeable(self) -> bool:
        """Whether a reader can know that something was lost."""
        return bool(self.loses) and (self.plain or not _BY_STANDARD.match(self.loses))


type Mutator = Callable[[bytes, np.random.Generator], Change | None]


def split_hdus(data: bytes) -> list[tuple[int, int, int]]:
    """Start of header, start of data and end of each HDU of a sound FITS file."""
    found, start = [], 0
    while start < len(data) and data[start : start + 8] in (b"SIMPLE  ", b"XTENSION"):
        cards: dict[str, str] = {}
        place = start
        while data[place : place + 8] != b"END     ":
            card = data[place : place + CARD].decode("latin-1")
            cards.setdefault(card[:8].strip(), card[10:].split("/")[0].strip())
            place += CARD
        begin = start + -(-(place + CARD - start) // BLOCK) * BLOCK
        axes = [int(cards[f"NAXIS{i + 1}"]) for i in range(int(cards["NAXIS"]))]
        count = int(np.prod(axes, dtype=np.int64)) if axes else 0
        size = abs(int(cards["BITPIX"])) // 8 * int(cards.get("GCOUNT", 1)) * (int(cards.get("PCOUNT", 0)) + count)
        end = min(begin + -(-size // BLOCK) * BLOCK, len(data))
        found.append((start, begin, end))
        start = end
    return found


def _pick_card(data: bytes, rng: np.random.Generator) -> tuple[int, str] | None:
    places = []
    for start, begin, _ in split_hdus(data):
        for place in range(start, begin, CARD):
            card = data[place : place + CARD].decode("latin-1")
            if card.startswith("END     "):
                break
            key = card[9:].split("=")[0].strip() if card.startswith("HIERARCH ") else card[:8].strip()
            places.append((place, key))
    worthy = [p for p in places if WORTHY.match(p[1])]
    pool = worthy if worthy and rng.random() < 0.75 else places
    return pool[rng.integers(len(pool))] if pool else None


def _with_value(card: bytes, value: str) -> bytes:
    text = card.decode("latin-1")
    head = text[: text.index("=") + 1] if "=" in text else f"{text[:8]}="
    return f"{head} {value:>20}".ljust(CARD)[:CARD].encode("latin-1")


def card_gone(data: bytes, rng: np.random.Generator) -> Change | None:
    """A card is not there: its place becomes a blank one."""
    if (found := _pick_card(data, rng)) is None:
        return None
    place, key = found
    return Change(data[:place] + b" " * CARD + data[place + CARD :], f"card {key} removed", key)


def card_empty(data: bytes, rng: np.random.Generator) -> Change | None:
    """A card without a value, or with text or NaN for a number."""
    if (found := _pick_card(data, rng)) is None:
        return None
    place, key = found
    value = ("", "'abc'", "NaN", "''")[rng.integers(4)]
    old = data[place : place + CARD]
    card = _with_value(old, value)
    return Change(
        data[:place] + card + data[place + CARD :], f"card {key} = {value or '(nothing)'}", key, _is_number(old)
    )


def card_number(data: bytes, rng: np.random.Generator) -> Change | None:
    """A card with an extreme value."""
    if (found := _pick_card(data, rng)) is None:
        return None
    place, key = found
    value = NUMBERS[rng.integers(len(NUMBERS))]
    card = _with_value(data[place : place + CARD], value)
    return Change(data[:place] + card + data[place + CARD :], f"card {key} = {value}")


def card_bytes(data: bytes, rng: np.random.Generator) -> Change | None:
    """A card some of whose bytes are anything."""
    if (found := _pick_card(data, rng)) is None:
        return None
    place, key = found
    card = bytearray(data[place : place + CARD])
    for _ in range(rng.integers(1, 6)):
        card[rng.integers(CARD)] = rng.integers(256)
    return Change(data[:place] + bytes(card) + data[place + CARD :], f"bytes of card {key}")


def card_twice(data: bytes, rng: np.random.Generator) -> Change | None:
    """A second card of a keyword that says something else, further down in the header."""
    hdus = split_hdus(data)
    start, begin, _ = hdus[rng.integers(len(hdus))]
    cards = [data[i : i + CARD] for i in range(start, begin, CARD)]
    cards = cards[: next(i for i, card in enumerate(cards) if card.startswith(b"END     "))]
    worthy = [i for i, card in enumerate(cards) if STRUCTURE.match(_keyword(card))]
    if not worthy:
        return None
    i = worthy[rng.integers(len(worthy))]
    value = NUMBERS[rng.integers(len(NUMBERS))]
    cards.insert(int(rng.integers(i + 1, len(cards) + 1)), _with_value(cards[i], value))
    header = b"".join(cards) + b"END".ljust(CARD)
    header = header.ljust(-(-len(header) // BLOCK) * BLOCK)
    key = _keyword(cards[i])
    return Change(data[:start] + header + data[begin:], f"a second {key} = {value} in HDU at {start}", f"second {key}")


def _keyword(card: bytes) -> str:
    text = card.decode("latin-1")
    return text[9:].split("=")[0].strip() if text.startswith("HIERARCH ") else text[:8].strip()


def _is_number(card: bytes) -> bool:
    try:
        float(card.partition(b"=")[2].partition(b"/")[0].replace(b"D", b"E"))
    except ValueError:
        return False
    return True


def hdu_moved(data: bytes, rng: np.random.Generator) -> Change | None:
    """An HDU is gone, is there twice, or changes places with another."""
    hdus = split_hdus(data)
    if len(hdus) < 2:
        return None
    parts = [data[start:end] for start, _, end in hdus]
    i, j = rng.integers(1, len(parts), 2)
    kind = rng.integers(3)
    if kind == 0:
        del parts[i]
    elif kind == 1:
        parts.insert(j, parts[i])
    else:
        parts[i], parts[j] = parts[j], parts[i]
    what = f"HDU {i} " + ("removed", f"again before {j}", f"swapped with {j}")[kind]
    return Change(b"".join(parts), what, what if kind == 0 else "")


def table_part(data: bytes, rng: np.random.Generator) -> Change | None:
    """A row of a binary table is gone, or a column has another name."""
    hdus = [h for h in split_hdus(data) if data[h[0] : h[0] + 20].startswith(b"XTENSION= 'BINTABLE")]
    if not hdus:
        return None
    start, begin, end = hdus[rng.integers(len(hdus))]
    cards = {_keyword(data[i : i + CARD]): i for i in range(begin - CARD, start - 1, -CARD)}

    def number(key: str) -> int:
        return int(data[cards[key] + 10 : cards[key] + 30].split(b"/")[0])

    columns = [key for key in cards if key.startswith("TTYPE")]
    if columns and rng.random() < 0.5:
        key = columns[rng.integers(len(columns))]
        place = cards[key]
        card = _with_value(data[place : place + CARD], "'gone    '")
        name = data[place + 10 : place + 30].split(b"/")[0].strip()
        return Change(data[:place] + card + data[place + CARD :], f"column {name!r} renamed", f"column {name!r}", True)
    try:
        width, rows, more = number("NAXIS1"), number("NAXIS2"), number("PCOUNT")
    except (KeyError, ValueError):
        return None
    if rows < 1 or "THEAP" in cards or "ZIMAGE" in cards:
        return None
    row = int(rng.integers(rows))
    body = data[begin : begin + row * width] + data[begin + (row + 1) * width : begin + rows * width + more]
    place = cards["NAXIS2"]
    header = data[start:place] + _with_value(data[place : place + CARD], str(rows - 1)) + data[place + CARD : begin]
    body = body.ljust(-(-len(body) // BLOCK) * BLOCK, b"\0")
    what = f"row {row} of {rows} of the table at {start} removed"
    return Change(data[:start] + header + body + data[end:], what, f"row {row}")


def ast_text(data: bytes, rng: np.random.Generator) -> Change | None:
    """A line of an AST dump is gone or changed, at the same length."""
    begins = [m.start() for m in re.finditer(rb"Begin \w+", data)]
    if not begins:
        return None
    begin = begins[rng.integers(len(begins))]
    end = data.find(b"\0", begin, begin + 20000)
    lines = list(re.finditer(rb"[^\n]+\n", data[begin : end if end > 0 else begin + 20000]))
    if not lines:
        return None
    line = lines[rng.integers(len(lines))]
    text = line.group()
    kind = rng.integers(3)
    if kind == 0:
        new = b" " * (len(text) - 1) + b"\n"
    elif kind == 1:
        value = (b"1e300", b"-1", b"nan", b"0", b"99999999", b"<bad>")[rng.integers(6)]
        new = (text.split(b"=")[0] + b"= " + value).ljust(len(text) - 1)[: len(text) - 1] + b"\n"
    else:
        new = bytes(rng.permutation(np.frombuffer(text[:-1], np.uint8))) + b"\n"
    start = begin + line.start()
    return Change(data[:start] + new + data[start + len(text) :], f"AST dump: {text.strip()!r} -> {new.strip()!r}")


def table_floats(data: bytes, rng: np.random.Generator) -> Change | None:
    """Four or eight aligned bytes of an HDU's data become a special number."""
    hdus = [h for h in split_hdus(data) if h[2] > h[1]]
    if not hdus:
        return None
    _, begin, end = hdus[rng.integers(len(hdus))]
    kind, value = (">f4", ">f8", ">i4", ">i8")[rng.integers(4)], rng.integers(5)
    number = (0, -1, 1, np.nan, 3e38)[value] if kind[1] == "f" else (0, -1, 1, 2**31 - 1, -(2**31))[value]
    raw = np.array(number, kind).tobytes()
    place = begin + int(rng.integers(max((end - begin) // len(raw), 1))) * len(raw)
    return Change(data[:place] + raw + data[place + len(raw) :], f"{kind} {number} at byte {place}")


def flipped(data: bytes, rng: np.random.Generator) -> Change:
    """Some bytes become others."""
    changed = bytearray(data)
    places = rng.integers(len(data), size=rng.integers(1, 9))
    for place in places:
        changed[place] ^= int(rng.integers(1, 256))
    return Change(bytes(changed), f"bytes {sorted(map(int, places))} flipped")


def truncated(data: bytes, rng: np.random.Generator) -> Change:
    """The file ends early."""
    length = int(rng.integers(len(data)))
    if rng.random() < 0.5:
        length = length // BLOCK * BLOCK
    return Change(data[:length], f"cut to {length} of {len(data)} bytes", "the end")


def wiped(data: bytes, rng: np.random.Generator) -> Change:
    """A stretch is zeros, or ones, or was appended."""
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 5000))
    filler = (b"\0", b"\xff", b" ")[rng.integers(3)]
    if rng.random() < 0.2:
        return Change(data + filler * length, f"{length} bytes {filler!r} appended")
    length = min(length, len(data) - start)
    return Change(data[:start] + filler * length + data[start + length :], f"{length} bytes {filler!r} at {start}")


_CELLS = (
    "",
    "abc",
    "nan",
    "inf",
    "1e400",
    "-1",
    "0",
    "3e240",
    "0x10",
    "9" * 25,
    "1;2",
    '"',
    "\0",
    "ä",
    "1 2",
    "True",
    "--",
)


def text_cell(data: bytes, rng: np.random.Generator) -> Change | None:
    """A number of a text file becomes something else."""
    found = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?(?![\w.])", data))
    if not found:
        return None
    match, cell = found[rng.integers(len(found))], _CELLS[rng.integers(len(_CELLS))]
    what = f"{match.group()!r} at byte {match.start()} -> {cell!r}"
    return Change(data[: match.start()] + cell.encode() + data[match.end() :], what)


def text_word(data: bytes, rng: np.random.Generator) -> Change | None:
    """A word (a column, a key, a type) is misspelt, emptied or repeated."""
    found = list(re.finditer(rb"[A-Za-z_]{2,}", data))
    if not found:
        return None
    match = found[rng.integers(len(found))]
    word = match.group()
    new = (word[:-1], b"", word + b"_", word.upper(), found[rng.integers(len(found))].group(), b"!!int x")[
        rng.integers(6)
    ]
    return Change(data[: match.start()] + new + data[match.end() :], f"word {word!r} -> {new!r}")


def text_line(data: bytes, rng: np.random.Generator) -> Change | None:
    """A line is gone, repeated, indented or unlike anything."""
    lines = data.split(b"\n")
    i = int(rng.integers(len(lines)))
    kind = rng.integers(6)
    odd = (b"[" * 5000, b"&a [*a, *a]", b"\t- {", b"a: &x [1]\n" + b"b: *x", b"- " * 300, b"\xff\xfe")[rng.integers(6)]
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(i, lines[i])
    elif kind == 2:
        lines[i] = b"   " + lines[i]
    elif kind == 3:
        lines[i] = lines[i].strip()
    elif kind == 4:
        lines.insert(i, odd)
    else:
        lines[i] = lines[i][: len(lines[i]) // 2]
    kinds = ("removed", "twice", "indented", "dedented", f"preceded by {odd[:20]!r}", "halved")
    return Change(b"\n".join(lines), f"line {i + 1} {kinds[kind]}")


BYTES: tuple[Mutator, ...] = (flipped, truncated, wiped)
FITS: tuple[Mutator, ...] = (
    card_gone,
    card_empty,
    card_number,
    card_bytes,
    card_twice,
    hdu_moved,
    table_part,
    ast_text,
    table_floats,
    *BYTES,
)
TEXT: tuple[Mutator, ...] = (text_cell, text_cell, text_word, text_word, text_line, *BYTES)


def mutate(data: bytes, mutators: tuple[Mutator, ...], rng: np.random.Generator) -> Change:
    """Damage of one kind that applies to the file."""
    while True:
        change = mutators[rng.integers(len(mutators))](data, rng)
        if change is not None and change.data != data:
            return change
