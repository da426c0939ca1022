"""Docstrings of the public face are as numpydoc wants them: every parameter, with its type, and what is returned."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import skygraft
from skygraft.psf import PSF
from skygraft.skymap import SkyMap

# What numpydoc asks for and is not asked for here: an extended summary, "See Also" and examples of everything; a
# description of what is returned where its type says it, or its name (scale : ndarray) and capitals in it.
NOT_ASKED = {"ES01", "SA01", "SA04", "EX01", "RT02", "RT03", "RT04"}
# Sections, which a function of no or one argument can do without: its first line says it all.
SECTIONS = {"PR01", "RT01"}
RETURNED = (PSF, SkyMap)
"""Classes of what the public names return, beside those that are public names themselves."""


def public() -> Iterator[tuple[str, Any]]:
    """Public names, and the public methods of the classes among them."""
    for thing in [*(getattr(skygraft, name) for name in skygraft.__all__), *RETURNED]:
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        name = f"{thing.__module__}.{thing.__qualname__}"
        yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, enum.Enum):
            for member, value in vars(thing).items():
                method = getattr(value, "__func__", value)
                if not member.startswith("_") and (inspect.isroutine(method) or isinstance(value, property)):
                    yield f"{name}.{member}", value


NAMES = dict(public())


def test_the_public_face_is_looked_at() -> None:
    assert len(NAMES) > 50
    assert {"skygraft.injection.core.inject", "skygraft.psf.base.PSF.kernels"} <= set(NAMES)


def n_arguments(thing: Any) -> int:
    function = getattr(thing, "__func__", thing)
    if isinstance(thing, property):
        return 0
    if inspect.isclass(thing):
        return 2
    return len([name for name in inspect.signature(function).parameters if name not in ("self", "cls")])


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name: str) -> None:
    validate = pytest.importorskip(
        "numpydoc.validate", reason="needs the dependency group docs: uv sync --group docs"
    ).validate
    thing = NAMES[name]
    left_out = NOT_ASKED | (SECTIONS if n_arguments(thing) < 2 else set())
    if inspect.isclass(thing) and issubclass(thing, enum.Enum):
        left_out |= SECTIONS
    errors = [f"{code}: {text}" for code, text in validate(name)["errors"] if code not in left_out]
    assert errors == []
