"""Generate catalogues of fakes from a description: in memory, or streamed to a Parquet file of any size."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astropy.table import QTable

from skygraft.generation.generator import CatalogGenerator, GenerationSummary, Progress, check_output
from skygraft.generation.spec import PopulationSpec, load_spec, parse_spec

__all__ = ["generate_catalog", "generate_table"]


def generate_catalog(
    spec: PopulationSpec | Mapping[str, Any] | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    processes: int = 1,
    progress: Progress | None = None,
    **changes: Any,
) -> GenerationSummary:
    """Generate a catalogue of fakes and write it as Parquet, with memory that does not depend on its size.

    Parameters
    ----------
    spec : PopulationSpec, mapping or path-like
        What to make: a ``population.yaml``, or its content.
    path : path-like
        The Parquet file to write.
    overwrite : bool
        Replace an existing file.
    processes : int
        Processes that read images, where their depth, seeing or masks are needed.
    progress : callable, optional
        Called with what is being done, and the numbers done and in total.
    **changes
        Keys of the description that replace those of `spec`, such as ``n=1000`` or ``seed=2``.

    Returns
    -------
    GenerationSummary

    Raises
    ------
    SkygraftError
        If the description is not allowed, something cannot be read, or no such catalogue can be made.

    Examples
    --------
    >>> import tempfile
    >>> from skygraft.generation import generate_catalog
    >>> fakes = {
    ...     "area": {"region": {"ra": 150.0, "dec": 2.0, "radius": 0.5}},
    ...     "bands": ["r"],
    ...     "n": 1000,
    ...     "sources": [{"type": "Star", "mag": {"kind": "uniform", "low": 18, "high": 26}}],
    ... }
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     generate_catalog(fakes, f"{folder}/fakes.parquet", seed=1).n
    1000
    """
    target = Path(path)
    check_output(target, overwrite=overwrite)
    generator = CatalogGenerator(_as_spec(spec, changes), processes, progress)
    return generator.write(target, overwrite=overwrite)


def generate_table(
    spec: PopulationSpec | Mapping[str, Any] | str | os.PathLike[str], *, processes: int = 1, **changes: Any
) -> QTable:
    """Generate a catalogue of fakes in memory: the same rows that `generate_catalog` writes.

    Parameters
    ----------
    spec, processes, **changes
        As in `generate_catalog`.

    Returns
    -------
    QTable
        Canonical table.

    Raises
    ------
    SkygraftError
        As `generate_catalog`.
    """
    return CatalogGenerator(_as_spec(spec, changes), processes).table()


def _as_spec(
    spec: PopulationSpec | Mapping[str, Any] | str | os.PathLike[str], changes: Mapping[str, Any]
) -> PopulationSpec:
    if isinstance(spec, PopulationSpec):
        return parse_spec(spec.model_dump(mode="json"), changes) if changes else spec
    return parse_spec(spec, changes) if isinstance(spec, Mapping) else load_spec(spec, changes)
