"""Decompress many short gzip streams at once, as the rows of compressed images are (RFC 1951 and 1952).

The bits of a deflate stream can only be decoded one symbol after the other, and a processor waits for most of that
time. Here four streams are decoded in turn, a symbol of each, so that it works on three while it waits for the fourth.
There are no calls for each row either. Both together take half the time of ISA-L, which takes one stream after the
other.

Nothing here is the last word on a stream: one that is unusual or damaged in any way is left to the caller's library,
and the caller compares the CRC of the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skygraft.jit import compiled, load_little_word, scratch, store_little_word

__all__ = ["PADDING", "inflate_all"]

PADDING = 64
"""Bytes that rows of the output are longer than what is decompressed: what is written before bounds are checked."""

type _Bytes = NDArray[np.uint8]
type _Words = NDArray[np.uint64]
type _Table = NDArray[np.uint16]

_U64: Any = np.uint64
"""numba converts mixed signed and unsigned integers to float: everything that counts or holds bits is unsigned."""
_LANES = 4
_AT_ONCE = 4
"""Literals of each lane between two looks at the bounds: of at most `_BITS` bits each, and 56 are at hand."""
_BITS = 11
"""Longest code in the table of literals and lengths; longer ones are rare, and found bit by bit."""
_FAR_BITS = 8
"""The same of distances."""
_OWN_BITS = 7
"""Longest code of the lengths of codes."""
_TABLE, _FAR_TABLE, _CODES = 1 << _BITS, 1 << _FAR_BITS, 16 + 288
_CODES_AT, _FAR_AT, _FAR_CODES_AT, _LANE = _TABLE, _TABLE + _CODES, _TABLE + _CODES + _FAR_TABLE, 3072
"""Where in the numbers of a lane its codes and its table and codes of distances begin; and how many numbers it has."""
_LONGEST = 15
_END = 256
"""Symbol of the end of a block; those above are lengths."""
_OTHER = 1 << 15
"""Flag in a table of what is no literal with a short code: other symbols, less `_END`; with length 0, no such code."""
_SLACK = 128
"""Bytes of input that may be read past the end of a stream before that is noticed."""
_IDLE, _BETWEEN, _GOING, _LAST, _WHOLE = range(5)
"""A lane has no stream, is between blocks, in a block, in the last block, behind it."""
_STATUS, _BITS_OF, _COUNT, _PLACE, _OUT, _STREAM_END, _ROW, _ROW_END, _NUMBER = range(9)
"""What is known of a lane: status; bits at hand, their number; next byte of input and of output; end of the stream;
first byte of the row and its end; number of the row."""
_FIXED = np.repeat(np.array([8, 9, 7, 8, 5], np.uint8), [144, 112, 24, 8, 32])
"""Lengths of the fixed codes (RFC 1951, section 3.2.6)."""
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])
_EXTRA = np.array([0] * 8 + [n // 4 for n in range(4, 24)] + [0] * 4, np.uint64)
_BASE = np.array([3, 4, 5, 6, 7, 8, 9, 10, *((4 + n % 4 << n // 4) + 3 for n in range(4, 24)), 258, 0, 0, 0], np.uint64)
_FAR_EXTRA = np.array([0, 0, *(n // 2 for n in range(28)), 0, 0], np.uint64)
_FAR = np.array([1, 2, *((2 + n % 2 << n // 2) + 1 for n in range(28)), 0, 0], np.uint64)
"""Extra bits and least values of lengths and distances (RFC 1951, section 3.2.5)."""


@compiled(inline="always")
def _fill(heap: _Bytes, bits: Any, count: Any, place: Any) -> tuple[Any, Any, Any]:
    """Fill the bits up to at least 56."""
    bits |= load_little_word(heap, place) << count
    return bits, count | _U64(56), place + ((_U64(63) - count) >> _U64(3))


@compiled(_nrt=False)
def _make_table(lengths: _Bytes, bits: int, table: _Table, codes: _Table) -> bool:
    """Make the table of a code, and the symbols in the order of their codes behind the numbers of codes by length.

    An entry is the length of the code, and four bits above it the symbol; that of `_OTHER` less `_END`. Returns False
    for lengths that leave no room for all codes.
    """
    offsets = scratch(16, np.uint16)
    codes[:16] = 0
    for symbol in range(len(lengths)):
        codes[lengths[symbol]] += np.uint16(1)
    codes[0] = 0
    room = 1 << _LONGEST
    total = 16
    for length in range(1, 16):
        offsets[length] = total
        total += codes[length]
        room -= int(codes[length]) << (_LONGEST - length)
    if room < 0:
        return False
    for symbol in range(len(lengths)):
        if lengths[symbol]:
            codes[offsets[lengths[symbol]]] = symbol
            offsets[lengths[symbol]] += np.uint16(1)
    table[0] = _OTHER
    place, reverse, size = 16, 0, 1
    for length in range(1, bits + 1):
        for i in range(size):
            table[size + i] = table[i]
        size *= 2
        for _ in range(codes[length]):
            symbol = int(codes[place])
            entry = symbol << 4 | length if symbol < _END else _OTHER | (symbol - _END) << 4 | length
            table[reverse] = entry
            place += 1
            # The next code, its bits in reverse.
            bit = size >> 1
            while reverse & bit:
                reverse ^= bit
                bit >>= 1
            reverse |= bit
    return True


@compiled(_nrt=False)
def _search(tables: _Table, at: Any, bits: Any) -> tuple[Any, Any]:
    """Find a code bit by bit among those at some place: its length, 0 if there is none, and the symbol."""
    code, first, place = _U64(0), _U64(0), at + _U64(16)
    for length in range(_U64(1), _U64(16)):
        code |= bits & _U64(1)
        bits >>= _U64(1)
        count = _U64(tables[at + length])
        if code < first + count:
            return length, _U64(tables[place + code - first])
        place += count
        first = (first + count) << _U64(1)
        code <<= _U64(1)
    return _U64(0), _U64(0)


@compiled(_nrt=False)
def _read_lengths(
    heap: _Bytes, bits: Any, count: Any, place: Any, end: Any, lengths: _Bytes
) -> tuple[Any, Any, Any, Any, Any]:
    """Read the lengths of a block's codes: new bits, count and place, and how many of each code, 0 if damaged.

    The stream ends at `end`.
    """
    table, codes, own = scratch(128, np.uint16), scratch(35, np.uint16), scratch(19, np.uint8)
    bad = bits, count, place, 0, 0
    n_literals, n_distances = int(bits & _U64(31)) + 257, int((bits >> _U64(5)) & _U64(31)) + 1
    n_own = int((bits >> _U64(10)) & _U64(15)) + 4
    bits, count = bits >> _U64(14), count - _U64(14)
    own[:] = 0
    for i in range(n_own):
        if count < _U64(3):
            bits, count, place = _fill(heap, bits, count, place)
        own[_ORDER[i]] = bits & _U64(7)
        bits, count = bits >> _U64(3), count - _U64(3)
    if n_literals > 286 or n_distances > 30 or not _make_table(own, _OWN_BITS, table, codes):
        return bad
    i, total = 0, n_literals + n_distances
    while i < total:
        if place > end:
            return bad
        bits, count, place = _fill(heap, bits, count, place)
        entry = table[bits & _U64(127)]
        length, symbol = _U64(entry & 15), int((entry & (_OTHER - 1)) >> 4)
        if length == _U64(0):
            return bad
        bits, count = bits >> length, count - length
        if symbol < 16:
            lengths[i] = symbol
            i += 1
            continue
        value, least, more = 0, 3, _U64(3)
        if symbol == 16:
            if i == 0:
                return bad
            value, more = int(lengths[i - 1]), _U64(2)
        elif symbol == 18:
            least, more = 11, _U64(7)
        times = least + int(bits & ((_U64(1) << more) - _U64(1)))
        bits, count = bits >> more, count - more
        if i + times > total:
            return bad
        lengths[i : i + times] = value
        i += times
    return bits, count, place, n_literals, n_distances


@compiled(_nrt=False)
def _begin_block(heap: _Bytes, raw: _Bytes, lane: Any, tables: _Table, state: _Words) -> bool:
    """Begin the next block of a stream, or copy it if it is stored; returns False if it is damaged."""
    lengths = scratch(320, np.uint8)
    bits, count, place = _fill(heap, state[_BITS_OF], state[_COUNT], state[_PLACE])
    last, kind = bits & _U64(1), (bits >> _U64(1)) & _U64(3)
    bits, count = bits >> _U64(3), count - _U64(3)
    state[_STATUS] = _U64(_LAST) if last else _U64(_GOING)
    if kind == _U64(0):
        start, out = place - (count >> _U64(3)), state[_OUT]
        size = _U64(heap[start]) | _U64(heap[start + _U64(1)]) << _U64(8)
        again = _U64(heap[start + _U64(2)]) | _U64(heap[start + _U64(3)]) << _U64(8)
        start += _U64(4)
        if size ^ again != _U64(0xFFFF) or start + size > state[_STREAM_END] or out + size > state[_ROW_END]:
            return False
        for i in range(_U64(0), size, _U64(8)):
            store_little_word(raw, out + i, load_little_word(heap, start + i))
        state[_BITS_OF], state[_COUNT], state[_PLACE], state[_OUT] = _U64(0), _U64(0), start + size, out + size
        state[_STATUS] = _U64(_WHOLE) if last else _U64(_BETWEEN)
        return True
    n_literals, n_distances = 288, 32
    if kind == _U64(1):
        for i in range(320):
            lengths[i] = _FIXED[i]
    elif kind == _U64(2):
        bits, count, place, n_literals, n_distances = _read_lengths(
            heap, bits, count, place, state[_STREAM_END], lengths
        )
    if kind == _U64(3) or n_literals == 0:
        return False
    state[_BITS_OF], state[_COUNT], state[_PLACE] = bits, count, place
    mine = tables[lane * _LANE : (lane + 1) * _LANE]
    return _make_table(lengths[:n_literals], _BITS, mine, mine[_CODES_AT:]) and _make_table(
        lengths[n_literals : n_literals + n_distances], _FAR_BITS, mine[_FAR_AT:], mine[_FAR_CODES_AT:]
    )


@compiled(_nrt=False, forceinline=True)
def _repeat(raw: _Bytes, out: Any, back: Any, size: Any) -> None:
    """Repeat bytes from some way back; up to seven more bytes are written behind them."""
    if back >= _U64(8):
        for i in range(_U64(0), size, _U64(8)):
            store_little_word(raw, out + i, load_little_word(raw, out - back + i))
    elif back == _U64(1):
        word = _U64(raw[out - back]) * _U64(0x0101010101010101)
        for i in range(_U64(0), size, _U64(8)):
            store_little_word(raw, out + i, word)
    else:
        for i in range(size):
            raw[out + i] = raw[out - back + i]


@compiled(_nrt=False, forceinline=True)
def _follow(
    heap: _Bytes,
    raw: _Bytes,
    lane: Any,
    tables: _Table,
    bits: Any,
    count: Any,
    place: Any,
    out: Any,
    entry: Any,
    start: Any,
    end: Any,
) -> tuple[Any, Any, Any, Any, Any]:
    """Decode a symbol that is no literal with a short code: new bits, count, place and output, and what it was.

    The last is 0 if the block goes on, 1 at its end, 2 if it is damaged. A row's output begins at `start` and ends at
    `end`.
    """
    bits, count, place = _fill(heap, bits, count, place)
    length, symbol = _U64(entry & np.uint16(15)), _U64((entry & np.uint16(_OTHER - 1)) >> np.uint16(4))
    if length == _U64(0):
        length, symbol = _search(tables, lane * _U64(_LANE) + _U64(_CODES_AT), bits)
        if length == _U64(0) or (symbol < _U64(_END) and out >= end):
            return bits, count, place, out, _U64(2)
        if symbol < _U64(_END):
            raw[out] = symbol
            bits, count, place = _fill(heap, bits >> length, count - length, place)
            return bits, count, place, out + _U64(1), _U64(0)
        symbol -= _U64(_END)
    bits, count = bits >> length, count - length
    if symbol == _U64(0):
        return bits, count, place, out, _U64(1)
    more = _EXTRA[symbol - _U64(1)]
    size = _BASE[symbol - _U64(1)] + (bits & ((_U64(1) << more) - _U64(1)))
    bits, count = bits >> more, count - more
    found = tables[lane * _U64(_LANE) + _U64(_FAR_AT) + (bits & _U64(_FAR_TABLE - 1))]
    length, place_of = _U64(found & np.uint16(15)), _U64((found & np.uint16(_OTHER - 1)) >> np.uint16(4))
    if length == _U64(0):
        length, place_of = _search(tables, lane * _U64(_LANE) + _U64(_FAR_CODES_AT), bits)
    if length == _U64(0) or symbol > _U64(29) or place_of > _U64(29):
        return bits, count, place, out, _U64(2)
    bits, count = bits >> length, count - length
    more = _FAR_EXTRA[place_of]
    back = _FAR[place_of] + (bits & ((_U64(1) << more) - _U64(1)))
    bits, count = bits >> more, count - more
    if out > end or size > end - out or back > out - start:
        return bits, count, place, out, _U64(2)
    _repeat(raw, out, back, size)
    bits, count, place = _fill(heap, bits, count, place)
    return bits, count, place, out + size, _U64(0)


@compiled(_nrt=False)
def _run_one(heap: _Bytes, raw: _Bytes, lane: Any, tables: _Table, state: _Words) -> Any:
    """Decode the block of one lane to its end; returns 1 there, 2 if it is damaged."""
    bits, count, place, out = state[_BITS_OF], state[_COUNT], state[_PLACE], state[_OUT]
    start, end, last = state[_ROW], state[_ROW_END], state[_STREAM_END] + _U64(8)
    table, what = tables[lane * _U64(_LANE) :], _U64(0)
    while what == _U64(0):
        if place > last or out > end:
            return _U64(2)
        bits, count, place = _fill(heap, bits, count, place)
        entry = table[bits & _U64(_TABLE - 1)]
        if entry < np.uint16(_OTHER):
            raw[out], out, length = entry >> np.uint16(4), out + _U64(1), _U64(entry & np.uint16(15))
            bits, count = bits >> length, count - length
        else:
            bits, count, place, out, what = _follow(heap, raw, lane, tables, bits, count, place, out, entry, start, end)
    state[_BITS_OF], state[_COUNT], state[_PLACE], state[_OUT] = bits, count, place, out
    return what


@compiled(_nrt=False)
def _run_four(heap: _Bytes, raw: _Bytes, tables: _Table, states: _Words) -> tuple[Any, Any]:
    """Decode the blocks of all lanes until one comes to its end (1) or is damaged (2): which one, and what happened."""
    table_a, table_b, table_c, table_d = tables, tables[_LANE:], tables[2 * _LANE :], tables[3 * _LANE :]
    mask = _U64(_TABLE - 1)
    a, b, c, d = states[0], states[1], states[2], states[3]
    bits_a, count_a, place_a, out_a = a[_BITS_OF], a[_COUNT], a[_PLACE], a[_OUT]
    bits_b, count_b, place_b, out_b = b[_BITS_OF], b[_COUNT], b[_PLACE], b[_OUT]
    bits_c, count_c, place_c, out_c = c[_BITS_OF], c[_COUNT], c[_PLACE], c[_OUT]
    bits_d, count_d, place_d, out_d = d[_BITS_OF], d[_COUNT], d[_PLACE], d[_OUT]
    last_a, end_a = a[_STREAM_END] + _U64(8), a[_ROW_END]
    last_b, end_b = b[_STREAM_END] + _U64(8), b[_ROW_END]
    last_c, end_c = c[_STREAM_END] + _U64(8), c[_ROW_END]
    last_d, end_d = d[_STREAM_END] + _U64(8), d[_ROW_END]
    which, what = _U64(0), _U64(0)
    while what == _U64(0):
        # The highest bit of a difference is set where it is negative.
        beyond = (last_a - place_a) | (end_a - out_a) | (last_b - place_b) | (end_b - out_b)
        beyond |= (last_c - place_c) | (end_c - out_c) | (last_d - place_d) | (end_d - out_d)
        if beyond >> _U64(63):
            what = _U64(2)
            if place_a > last_a or out_a > end_a:
                which = _U64(0)
            elif place_b > last_b or out_b > end_b:
                which = _U64(1)
            else:
                which = _U64(2) if place_c > last_c or out_c > end_c else _U64(3)
            break
        bits_a, count_a, place_a = _fill(heap, bits_a, count_a, place_a)
        bits_b, count_b, place_b = _fill(heap, bits_b, count_b, place_b)
        bits_c, count_c, place_c = _fill(heap, bits_c, count_c, place_c)
        bits_d, count_d, place_d = _fill(heap, bits_d, count_d, place_d)
        for _ in range(_AT_ONCE):
            entry = table_a[bits_a & mask]
            if entry < np.uint16(_OTHER):
                raw[out_a], out_a, length = entry >> np.uint16(4), out_a + _U64(1), _U64(entry & np.uint16(15))
                bits_a, count_a = bits_a >> length, count_a - length
            else:
                bits_a, count_a, place_a, out_a, what = _follow(
                    heap, raw, _U64(0), tables, bits_a, count_a, place_a, out_a, entry, a[_ROW], end_a
                )
                if what:
                    which = _U64(0)
                    break
            entry = table_b[bits_b & mask]
            if entry < np.uint16(_OTHER):
                raw[out_b], out_b, length = entry >> np.uint16(4), out_b + _U64(1), _U64(entry & np.uint16(15))
                bits_b, count_b = bits_b >> length, count_b - length
            else:
                bits_b, count_b, place_b, out_b, what = _follow(
                    heap, raw, _U64(1), tables, bits_b, count_b, place_b, out_b, entry, b[_ROW], end_b
                )
                if what:
                    which = _U64(1)
                    break
            entry = table_c[bits_c & mask]
            if entry < np.uint16(_OTHER):
                raw[out_c], out_c, length = entry >> np.uint16(4), out_c + _U64(1), _U64(entry & np.uint16(15))
                bits_c, count_c = bits_c >> length, count_c - length
            else:
                bits_c, count_c, place_c, out_c, what = _follow(
                    heap, raw, _U64(2), tables, bits_c, count_c, place_c, out_c, entry, c[_ROW], end_c
                )
                if what:
                    which = _U64(2)
                    break
            entry = table_d[bits_d & mask]
            if entry < np.uint16(_OTHER):
                raw[out_d], out_d, length = entry >> np.uint16(4), out_d + _U64(1), _U64(entry & np.uint16(15))
                bits_d, count_d = bits_d >> length, count_d - length
            else:
                bits_d, count_d, place_d, out_d, what = _follow(
                    heap, raw, _U64(3), tables, bits_d, count_d, place_d, out_d, entry, d[_ROW], end_d
                )
                if what:
                    which = _U64(3)
                    break
    a[_BITS_OF], a[_COUNT], a[_PLACE], a[_OUT] = bits_a, count_a, place_a, out_a
    b[_BITS_OF], b[_COUNT], b[_PLACE], b[_OUT] = bits_b, count_b, place_b, out_b
    c[_BITS_OF], c[_COUNT], c[_PLACE], c[_OUT] = bits_c, count_c, place_c, out_c
    d[_BITS_OF], d[_COUNT], d[_PLACE], d[_OUT] = bits_d, count_d, place_d, out_d
    return which, what


@compiled(reads=("heap", "starts", "ends"))
def inflate_all(
    heap: _Bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], size: int, raw: _Bytes, sums: NDArray[np.int64]
) -> None:
    """Decompress gzip streams that give `size` bytes each.

    Parameters
    ----------
    heap : ndarray of uint8
        Bytes that hold the streams.
    starts, ends : ndarray of int64, shape (N,)
        First byte of each stream, and the first one after it; inside of the heap.
    size : int
        Bytes of each stream when it is decompressed.
    raw : ndarray of uint8, shape (N (size + PADDING),)
        Filled with what was decompressed, a row with padding after the other.
    sums : ndarray of int64, shape (N,)
        Filled with the CRCs that the streams state; -1 for a stream that is damaged or unusual.
    """
    states = np.zeros((_LANES, 10), np.uint64)
    tables = np.empty(_LANES * _LANE, np.uint16)
    following, width = 0, size + PADDING
    while True:
        n_going = 0
        for lane in range(_LANES):
            state = states[lane]
            while state[_STATUS] != _U64(_GOING) and state[_STATUS] != _U64(_LAST):
                if state[_STATUS] == _U64(_IDLE):
                    if following == len(starts):
                        break
                    _begin(heap, following, starts[following], ends[following], size, width, state, sums)
                    following += 1
                elif state[_STATUS] == _U64(_WHOLE):
                    _finish(heap, size, state, sums)
                elif state[_PLACE] > state[_STREAM_END] or not _begin_block(heap, raw, _U64(lane), tables, state):
                    state[_STATUS] = _IDLE
            n_going += state[_STATUS] != _U64(_IDLE)
        if n_going == 0:
            return
        which, what = _U64(0), _U64(0)
        if n_going == _LANES:
            which, what = _run_four(heap, raw, tables, states)
        else:
            while states[which, _STATUS] == _U64(_IDLE):
                which += _U64(1)
            what = _run_one(heap, raw, which, tables, states[which])
        last = states[which, _STATUS] == _U64(_LAST)
        states[which, _STATUS] = _U64(_IDLE) if what == _U64(2) else _U64(_WHOLE) if last else _U64(_BETWEEN)


@compiled(_nrt=False)
def _begin(
    heap: _Bytes, row: int, start: int, end: int, size: int, width: int, state: _Words, sums: NDArray[np.int64]
) -> None:
    """Begin a stream, unless its header is another than those of tiles, or it is at the end of the heap."""
    sums[row] = -1
    if end - start < 18 or end + _SLACK > len(heap):
        return
    if heap[start] != 31 or heap[start + 1] != 139 or heap[start + 2] != 8 or heap[start + 3] != 0:
        return
    state[_STATUS], state[_BITS_OF], state[_COUNT], state[_PLACE] = _U64(_BETWEEN), _U64(0), _U64(0), _U64(start + 10)
    state[_ROW], state[_ROW_END] = _U64(row * width), _U64(row * width + size)
    state[_OUT], state[_STREAM_END], state[_NUMBER] = state[_ROW], _U64(end), _U64(row)


@compiled(_nrt=False)
def _finish(heap: _Bytes, size: int, state: _Words, sums: NDArray[np.int64]) -> None:
    """End a stream: its sum, if its trailer is where it should be and says as many bytes as there are."""
    start = state[_PLACE] - (state[_COUNT] >> _U64(3))
    state[_STATUS] = _IDLE
    if start + _U64(8) != state[_STREAM_END] or state[_OUT] != state[_ROW_END]:
        return
    trailer = load_little_word(heap, start)
    if trailer >> _U64(32) == _U64(size & 0xFFFFFFFF):
        sums[state[_NUMBER]] = trailer & _U64(0xFFFFFFFF)
