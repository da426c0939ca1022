"""Dumps that are damaged are refused before AST sees them: some of them end the process."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlink import Ast
from tblib import pickling_support

from skygraft.errors import WcsError
from skygraft.wcs import AstWcs
from skygraft.wcs.ast_dump import read_dump


class Sink:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def astsink(self, line: str) -> None:
        self.lines.append(line)


def dump(thing: Any) -> str:
    sink = Sink()
    Ast.Channel(None, sink).write(thing)
    return "\n".join(sink.lines) + "\n"


def frame_set() -> Any:
    frames = Ast.FrameSet(Ast.Frame(2, "Domain=PIXELS"))
    shift = Ast.ShiftMap([1.0, 2.0])
    linear = Ast.MatrixMap([[1e-5, 2e-6], [-2e-6, 1e-5]])
    frames.addframe(Ast.BASE, Ast.CmpMap(shift, linear, True), Ast.SkyFrame("System=ICRS"))
    return frames


POLY = Ast.PolyMap([[1.0, 1, 1, 0], [2.0, 2, 0, 1], [1e-3, 1, 2, 0]], [[1.0, 1, 1, 0], [0.5, 2, 0, 1]])
MATRIX = Ast.MatrixMap([[1.0, 2.0], [3.0, 1.0]])


@pytest.mark.parametrize(
    "thing", [frame_set(), POLY, Ast.UnitMap(2), Ast.ZoomMap(2, 0.5)], ids=lambda t: type(t).__name__
)
def test_what_ast_writes_is_read(thing: Any) -> None:
    assert dump(read_dump(dump(thing), "a test")) == dump(thing)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    Nframe = 2", "", "no stated number of frames"),
        ("Nframe = 2", "Nframe = 3", "a FrameSet of 3 frames has 2"),
        ("Nframe = 2", "Nframe = 2 1", "gives Nframe two values"),
        ("Nframe = 2", "Nframe = 99999999", "no stated number"),
        ("Currnt = 2", "Currnt = 7", "Currnt = 7 of 2 frames"),
        ("End FrameSet", "", "ends before its object does"),
        ("End FrameSet", "End CmpMap", "ends a CmpMap inside of a FrameSet"),
        ("Begin SkyFrame", "Bogin SkyFrame", "is 'Bogin SkyFrame'"),
        ("MapB =", "MapC =", "a CmpMap lacks MapB"),
        ("Nframe = 2", "Nframe = \0", "character '\\\\x00'"),
        ("Nframe = 2", "Nframe = é", "character 'é'"),
        ("Nframe = 2", "Nframe = 2\n Nframe = 2", "gives Nframe a second time"),
    ],
)
def test_damage_is_named(old: str, new: str, words: str) -> None:
    text = dump(frame_set())
    assert old in text
    with pytest.raises(WcsError, match=words) as caught:
        read_dump(text.replace(old, new, 1), "the WCS", "image.fits")
    assert "image.fits" in str(caught.value) and "the AST dump of the WCS" in str(caught.value)
    pickle.loads(pickle.dumps(caught.value))


def test_a_missing_coefficient_is_no_zero() -> None:
    text = dump(POLY)
    line = next(line for line in text.splitlines() if line.strip().startswith("CF2 ="))
    with pytest.raises(WcsError, match="coefficients CF"):
        read_dump(text.replace(line, "", 1), "the WCS")


@pytest.mark.parametrize(
    ("thing", "lost", "words"),
    [
        (POLY, "MPF1 =", "and states"),
        (POLY, "NCF2 =", "coefficients CF"),
        (POLY, "PF3 =", "powers F up to"),
        (MATRIX, "Nin =", "a MatrixMap of no stated number of input coordinates"),
        (MATRIX, "Form =", "lacks Form"),
        (MATRIX, "M2 =", "has 3 elements M"),
        (MATRIX, "IM0 =", "has 3 elements IM"),
        (Ast.ZoomMap(2, 0.5), "Zoom =", "lacks Zoom"),
        (Ast.WcsMap(2, Ast.TAN, 1, 2), "Type =", "lacks Type"),
        (Ast.PcdMap(0.1, [1, 2]), "Disco =", "lacks Disco"),
        (Ast.LutMap([1, 2, 4.0], 0, 1), "L2 =", "has 2 elements"),
        (Ast.TranMap(Ast.UnitMap(2), Ast.ZoomMap(2, 3.0)), "Nin =", "input coordinates"),
    ],
    ids=lambda value: value.strip("= ") if isinstance(value, str) else type(value).__name__,
)
def test_a_part_that_ast_fills_in_is_missed(thing: Any, lost: str, words: str) -> None:
    lines = dump(thing).splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith(lost))
    read_dump("\n".join(lines), "a test")
    with pytest.raises(WcsError, match=words):
        read_dump("\n".join(lines[:at] + lines[at + 1 :]), "a test")


def test_a_power_beyond_what_is_announced() -> None:
    """AST takes it for a place in memory that it has not."""
    with pytest.raises(WcsError, match="powers F up to"):
        read_dump(dump(POLY).replace("PF3 = 2", "PF3 = 200000"), "the WCS")


def test_what_ast_refuses_only_when_it_is_used_names_the_file() -> None:
    text = dump(frame_set())
    wcs = AstWcs(text, "image.fits")

    class Broken:
        def tran(self, points: Any, forward: bool) -> Any:
            raise Ast.TRNND("not defined")

    wcs._frames = Broken()
    with pytest.raises(WcsError, match=r"image\.fits: AST cannot evaluate the WCS: not defined") as caught:
        wcs.pixel_to_world_values(1.0, 2.0)
    pickle.loads(pickle.dumps(caught.value))
    assert pickle.loads(pickle.dumps(AstWcs(text, "image.fits")))._path == "image.fits"


def test_what_ast_itself_refuses_can_be_pickled_with_its_cause() -> None:
    text = dump(frame_set()).replace("Begin SkyFrame", "Begin Skyframes").replace("End SkyFrame", "End Skyframes")
    with pytest.raises(WcsError, match="cannot be read") as caught:
        read_dump(text, "the WCS")
    assert isinstance(caught.value.__cause__, Ast.AstError)
    pickling_support.install(caught.value)  # as Dask does
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert "Skyframes" in repr(again.__cause__)


@given(data=st.data())
def test_lines_lost_or_changed_end_in_words(data: st.DataObject) -> None:
    lines = dump(frame_set()).splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    new = data.draw(st.one_of(st.just(""), st.text(max_size=30), st.sampled_from(lines)))
    lines[at] = new
    try:
        read_dump("\n".join(lines), "the WCS")
    except WcsError as error:
        assert str(error)
