"""Names of PSF files that are filled in for each image: ``psf_{visit:06d}_{band}.fits``."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skygraft.errors import PsfError
from skygraft.fitsfile.packed import PACKED_SUFFIXES
from skygraft.place_names import is_url
from skygraft.places import beneath, is_file

__all__ = ["check_template", "psf_of_image", "psf_templates"]

_OF_FILE = ("stem", "name")
_KNOWN = {"band": "band", "visit": "visit", "expnum": "visit", "detector": "detector", "ccd": "detector",
          "instrument": "instrument"}  # fmt: skip
"""Fields of a template, and what they are of an image."""
_NUMBER_FORM = re.compile(r"0?[0-9]{1,2}d?")


def psf_templates(given: Any) -> Iterator[str]:
    """List the templates in what is given for a PSF: a template, a mapping with a ``path``, or one for each band."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping):
        if isinstance(given.get("path"), str):
            yield given["path"]
        if isinstance(given.get("band"), Mapping):
            for one in given["band"].values():
                yield from psf_templates(one)


def check_template(text: str) -> None:
    """Refuse a template with other fields than those of an image, by a ValueError that names the field."""
    list(_parts(text))


def _parts(text: str) -> Iterator[tuple[str, str | None, str]]:
    """Literal text, the field after it, and its form."""
    allowed = ", ".join(f"{{{name}}}" for name in (*_OF_FILE, *_KNOWN))
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"psf is {text!r}; only {allowed} can stand in it ({error})") from error
    for literal, name, form, conversion in parts:
        numbered = not form or (name in _KNOWN and _NUMBER_FORM.fullmatch(form))
        if name is not None and (name not in (*_OF_FILE, *_KNOWN) or conversion or not numbered):
            raise ValueError(f"psf is {text!r}; only {allowed} can stand in it, not {name!r}")
        yield literal, name, form or ""


def psf_of_image(given: Any, image: Path, root: Path | None, known: Mapping[str, Any]) -> Any:
    """Fill in the names of files in what is given for a PSF: a template, or a model.

    Names are relative to the image or, if there is no such file beside it, to `root`. One with a field that is not
    known of the image is a `PsfError`.
    """
    if isinstance(given, str):
        return _file(given, image, root, known)
    if not isinstance(given, Mapping):
        return given
    if isinstance(given.get("band"), Mapping):
        one = {str(name): value for name, value in given["band"].items()}.get(str(known.get("band")))
        # Without one for its band the image is refused where it is read, by name.
        return dict(given) if one is None else psf_of_image(one, image, root, known)
    if isinstance(given.get("path"), str):
        return {**given, "path": str(_file(given["path"], image, root, known))}
    return dict(given)


def _file(text: str, image: Path, root: Path | None, known: Mapping[str, Any]) -> Path:
    stem = image.name.removesuffix(".fz")
    for suffix in PACKED_SUFFIXES:
        stem = stem.removesuffix(suffix)
    values: dict[str, Any] = {"stem": Path(stem).stem, "name": image.name}
    values |= {field: known.get(name) for field, name in _KNOWN.items()}
    name = ""
    for literal, field, form in _parts(text):
        name += literal
        if field is None:
            continue
        if (value := values[field]) is None:
            raise PsfError(
                f"the name of the PSF file, {text!r}, has {{{field}}}, which is not known of this image",
                path=image,
                key="survey.calibration.psf",
                fix="Use {stem} or {name} of the image file, or record it in the images' headers",
            )
        number = int(value) if form and str(value).lstrip("-").isdecimal() else None
        name += str(value) if number is None else format(number, form)
    if is_url(name):
        return beneath(image, name)
    beside = image.parent / name
    if root is not None and not is_file(beside) and is_file(root / name):
        return root / name
    return beside
