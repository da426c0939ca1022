"""Every error keeps what it says, and its causes, on the way through a worker."""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tblib import pickling_support

import skygraft.errors
from skygraft.errors import SkygraftError, SkygraftWarning

pickling_support.install()


def kinds() -> list[type[SkygraftError]]:
    """Every class of error that there is, also those outside of `skygraft.errors`."""
    import skygraft.campaign
    import skygraft.catalog
    import skygraft.formats

    assert skygraft.campaign and skygraft.catalog and skygraft.formats
    found, left = [], [SkygraftError]
    while left:
        one = left.pop()
        found.append(one)
        left.extend(one.__subclasses__())
    named = [getattr(skygraft.errors, name) for name in skygraft.errors.__all__]
    assert {kind for kind in named if isinstance(kind, type)} - {SkygraftWarning} <= set(found)
    return found


def causes() -> list[BaseException]:
    """What the libraries raise, of classes that Python alone would not pickle among them."""
    made: list[BaseException] = [OSError(28, "no space"), KeyError("TFORM8"), MemoryError("5 TiB")]
    try:
        zlib.decompress(b"x")
    except zlib.error as error:
        made.append(error)
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        made.append(error)
    try:
        yaml.safe_load("[")
    except yaml.YAMLError as error:
        made.append(error)
    try:
        pa.array(["x"]).cast(pa.int64())
    except pa.ArrowInvalid as error:
        made.append(error)

    made.append(ValueError("of a validator", lambda: None))

    class LocalError(Exception):
        """Of a class that no other process can look up."""

    return [*made, LocalError("local")]


texts = st.one_of(st.none(), st.text(max_size=20))


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
@given(
    message=st.text(max_size=40), path=texts, hdu=st.one_of(st.none(), st.integers(), st.text(max_size=5)), key=texts
)
def test_errors_are_the_same_after_pickling(
    kind: type[SkygraftError], message: str, path: Any, hdu: Any, key: Any
) -> None:
    error = kind(message, path=path, hdu=hdu, row=3, key=key, fix="Do it")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)


@pytest.mark.parametrize("cause", causes(), ids=lambda cause: type(cause).__name__)
def test_errors_keep_their_causes(cause: BaseException) -> None:
    try:
        try:
            raise cause
        except BaseException as caught:
            raise skygraft.errors.CorruptFileError("damaged", path="a.fits") from caught
    except skygraft.errors.CorruptFileError as error:
        back = pickle.loads(pickle.dumps(error))
    assert str(back) == "a.fits: damaged"
    assert back.__cause__ is not None
    words = str(cause).strip("'\"")
    assert words.splitlines()[0] in str(back.__cause__)
