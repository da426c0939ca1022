"""What is known of an image before it is read: one definition, from which schemas of tables and docstrings follow."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

__all__ = ["Column", "IndexedImage", "columns_of", "describe_columns", "schema_of"]


@dataclass(frozen=True)
class Column:
    """What a field of an image is in tables.

    Parameters
    ----------
    type : pyarrow.DataType
        Its type.
    meaning : str
        What it means; a sentence of its docstring.
    unit : str
        Its unit, as astropy spells it.
    """

    type: pa.DataType
    meaning: str
    unit: str = ""


def columns_of(kind: type) -> dict[str, Column]:
    """The columns of a dataclass whose fields are annotated with a `Column`, in the order of the fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(kind)}


def schema_of(columns: Mapping[str, Column], *, with_units: bool = False) -> pa.Schema:
    """The Arrow schema of some columns; on request with their units, under ``unit`` in the metadata of each field."""
    return pa.schema(
        pa.field(name, column.type, metadata={"unit": column.unit} if with_units and column.unit else None)
        for name, column in columns.items()
    )


def describe_columns[T](kind: type[T]) -> type[T]:
    """Add the section Parameters to the docstring of a dataclass whose fields are annotated with a `Column`."""
    hints = typing.get_type_hints(kind)
    lines = [inspect.getdoc(kind) or "", "", "Parameters", "----------"]
    for name, column in columns_of(kind).items():
        of_type = hints[name].__name__ if isinstance(hints[name], type) else str(hints[name])
        meaning = f"{column.meaning.removesuffix('.')}; {column.unit}." if column.unit else column.meaning
        lines += [f"{name} : {of_type.replace(' | ', ' or ')}", f"    {meaning}"]
    kind.__doc__ = "\n".join(lines)
    return kind


_TEXT, _INTEGER, _NUMBER = pa.string(), pa.int64(), pa.float64()
_POINTS = pa.list_(pa.list_(_NUMBER))


@describe_columns
@dataclass(frozen=True, kw_only=True)
class IndexedImage:
    """One image of a survey: which it is, where it lies on the sky, and how to read it."""

    image_id: Annotated[
        str, Column(_TEXT, "Names the image in records, truth tables and random streams; unique in the campaign.")
    ]
    path: Annotated[str, Column(_TEXT, "The image file, relative to the survey's root where it lies beneath it.")]
    hdu: Annotated[str, Column(_TEXT, "The HDU that holds the image; empty where its format has no such choice.")]
    format: Annotated[str, Column(_TEXT, "Name of its format.")]
    instrument: Annotated[str | None, Column(_TEXT, "Instrument, where known.")]
    visit: Annotated[int | None, Column(_INTEGER, "Number of the exposure, where known.")]
    detector: Annotated[str | None, Column(_TEXT, "Detector, where known.")]
    band: Annotated[str | None, Column(_TEXT, "Band, where known.")]
    mjd: Annotated[float | None, Column(_NUMBER, "Middle of the exposure, MJD TAI.", "d")]
    exposure_time: Annotated[float | None, Column(_NUMBER, "Exposure time.", "s")]
    nx: Annotated[int, Column(_INTEGER, "Columns.", "pix")]
    ny: Annotated[int, Column(_INTEGER, "Rows.", "pix")]
    ra: Annotated[float, Column(_NUMBER, "Right ascension of the centre, ICRS.", "deg")]
    dec: Annotated[float, Column(_NUMBER, "Declination of the centre, ICRS.", "deg")]
    polygon: Annotated[
        tuple[tuple[float, float], ...], Column(_POINTS, "Outline: right ascension and declination, ICRS.", "deg")
    ]
    pixel_scale: Annotated[float, Column(_NUMBER, "Size of a pixel at the centre.", "arcsec")]
    n_bytes: Annotated[int, Column(_INTEGER, "Size of the file.", "byte")]
    options: Annotated[str, Column(_TEXT, "Reading options of the format, JSON.")]
    dataset: Annotated[
        str | None,
        Column(
            _TEXT, "What the image is in a Butler repository, as `skygraft.dataset.Dataset.to_json` gives it; or empty."
        ),
    ] = None
