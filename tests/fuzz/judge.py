"""What every target shares: how a file is damaged, and what is a refusal that a user can read."""

from __future__ import annotations

import functools
import gzip
import os
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutate import BYTES, FITS, TEXT, Change, Mutator, mutate
from fuzz.mutate_asdf import ASDF

PICKLED = ("path", "hdu", "row", "key", "message")


class SilentError(Exception):
    """Something was accepted that must not be, or changed that must not."""


class CommandFailedError(Exception):
    """A command ended with an exit code and words."""


def judge(error: Exception) -> tuple[str, str]:
    """Kind and detail of an exception: a refusal must be readable, and in another process too."""
    from skygraft.errors import SkygraftError

    if isinstance(error, SilentError):
        return "silent", str(error)
    if isinstance(error, CommandFailedError):
        return "refused", str(error)
    if isinstance(error, MemoryError):
        return "memory", traceback.format_exc()
    if not isinstance(error, SkygraftError):
        return "foreign", traceback.format_exc()
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception as problem:
        return "foreign", f"cannot be pickled ({problem!r}): {error!r}"
    if str(again) != str(error) or any(getattr(again, n) != getattr(error, n) for n in PICKLED):
        return "foreign", f"does not survive pickling: {error!r}"
    return "refused", str(error)


_TEXTS = (".csv", ".ecsv", ".vot", ".json", ".jsonl", ".yaml", ".properties", ".cat")
_FITS = (".fits", ".fit", ".fz", ".psf", ".piff", ".ldac")


def _mutators(ending: str, data: bytes) -> tuple[Mutator, ...]:
    """What can be done to files with an ending."""
    if ending == ".asdf":
        return (*ASDF, *BYTES)
    if ending in _FITS:
        return (*FITS, *ASDF[:-1]) if b"#ASDF " in data else FITS
    return TEXT if ending in _TEXTS else BYTES


def damage(path: Path, rng: np.random.Generator, what: list[str], *more: Mutator) -> Change:
    """Damage a file in a way that its format knows; of a gzipped one as often what is inside.

    Parameters
    ----------
    path : Path
        The file, which is replaced.
    rng : Generator
        What is drawn from.
    what : list of str
        Gets a description.
    *more
        Damage that is done in two of three cases instead of what any file of the format can suffer.

    Returns
    -------
    Change
    """
    data, suffixes = path.read_bytes(), [*path.suffixes[-2:]]
    inside = suffixes[-1:] == [".gz"] and rng.random() < 0.5
    if inside:
        data = gzip.decompress(data)
        suffixes.pop()
    ending = suffixes[-1] if suffixes else ""
    mutators = more if more and rng.random() < 2 / 3 else _mutators(ending, data)
    change = mutate(data, mutators, rng)
    path.unlink()  # a hard link's other name keeps what it has
    path.write_bytes(gzip.compress(change.data, 1) if inside else change.data)
    what.append(f"{path.name}: {change.what}")
    return change


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder, and come back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@functools.cache
def _runner() -> tuple[Any, Any]:
    import typer.testing

    # The command line is built once, not for each command.
    typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]
    from skygraft.cli import app

    return typer.testing.CliRunner(), app


def command(*words: str) -> tuple[int, str]:
    """Exit code and output of a command; anything but its own errors is raised, and so is a failure without words."""
    runner, app = _runner()
    result = runner.invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code and not result.output.strip():
        raise SilentError(f"{words[0]} ended with {result.exit_code} and said nothing")
    return result.exit_code, result.output


def check_drawn(truth: Any, added: Any, image: Any) -> None:
    """Hold the truth of an injection against what landed on the image.

    Parameters
    ----------
    truth : Table
        Of the injection, without noise.
    added, image : ndarray
        What was added, and the image before, both in double precision; `image` has the pixels' rounding.

    Raises
    ------
    SilentError
        If flux is not finite or not what the truth states.
    """
    drawn = np.asarray(truth["stamp_size"]) > 0
    columns = {n: np.asarray(truth[n], float)[drawn] for n in ("x", "y", "flux_deposited", "inst_flux", "kernel_scale")}
    for name, values in columns.items():
        if not np.isfinite(values).all():
            raise SilentError(f"the truth's {name} of drawn sources is not finite")
    if not np.isfinite(added).all():
        return  # pixels that were not finite before
    deposited = columns["flux_deposited"]
    rounding = float(np.spacing(np.abs(image).astype(np.float32)).astype(float).sum())
    scale = float(np.abs(deposited).sum())
    if abs(float(added.sum()) - float(deposited.sum())) > 1e-3 * scale + 2 * rounding:
        raise SilentError(f"the image gained {added.sum():.6g}, and the truth states {deposited.sum():.6g}")
    most = float((np.abs(columns["inst_flux"]) * np.maximum(columns["kernel_scale"], 1.0)).sum())
    if float(np.abs(added).max(initial=0)) > 3 * most + 2 * rounding:
        raise SilentError(f"a pixel gained {np.abs(added).max():.3g}, more than all sources have ({most:.3g})")
