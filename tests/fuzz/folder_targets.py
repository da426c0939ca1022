"""Damaged catalogues of many files, HATS and plain, and damaged stamps: FITS, cubes, HDF5 and Zarr."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from fuzz.judge import SilentError
from fuzz.kit import Fuzz, copy_tree
from fuzz.mutate import Change
from fuzz.mutate_tables import table_mutator
from fuzz.time_tables import check_same
from kits.hats_kit import sky_rows, write_collection, write_hats
from kits.stamp_kit import Blobs, turned, wcs_header

# --- folders of Parquet files

N = 24
_NEEDED = ("injection_id", "ra", "dec", "source_type")


def _plain(folder: Path) -> None:
    rows = sky_rows(N)
    for i, part in enumerate(np.array_split(np.arange(N), 3)):
        path = folder / f"batch={i}/part-{i}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({key: pa.array(v[part].tolist()) for key, v in rows.items()}), path)


def _written(folder: Path) -> None:
    """What the product itself writes: a collection with its margin."""
    from skygraft.catalog.hats_write import HatsWriter

    with HatsWriter(folder / "made") as writer:
        writer.write(pa.table({key: pa.array(v.tolist()) for key, v in sky_rows(N).items()}))


_FOLDERS: dict[str, Callable[[Path], Any]] = {
    "hats": lambda f: write_hats(f, sky_rows(N)),
    "hats_folders": lambda f: write_hats(f, sky_rows(N), order=1, files=False),
    "hats_counted": lambda f: write_hats(f, sky_rows(N), info=False),
    "collection": lambda f: write_collection(f, sky_rows(N)),
    "written": _written,
    "plain": _plain,
}


class Folders:
    """The target of damaged folders of Parquet files."""

    WEIGHTS: ClassVar[dict[str, float]] = {"plain": 0.5}

    @staticmethod
    def make(folder: Path) -> list[str]:
        """Write a folder of each kind."""
        for name, write in _FOLDERS.items():
            (folder / name).mkdir(parents=True)
            write(folder / name)
        return list(_FOLDERS)

    @staticmethod
    def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
        """Read what is damaged, at once or in chunks: every row is there, or the folder is refused."""
        sound = fuzz.folder / "folders" / name
        before = fuzz.known(f"folders/{name}", lambda: _rows(sound, name, 1))
        copy_tree(sound, case)
        change = _damage_folder(fuzz, case, rng, what)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            after = _rows(case, name, int(rng.integers(2)))
        for key in ("ra", "dec"):
            if not np.isfinite(after[key]).all():
                raise SilentError(f"{key} is not finite")
        if "margin" in what[0] or "thumbnail" in what[0] or (name == "plain" and change.loses == "a file"):
            return  # margins are not read, and nothing says what a plain folder should hold
        if change.column in _NEEDED and (change.loses or change.value is None or not np.isfinite(change.value)):
            raise SilentError(f"{change.what}, and nothing was said")
        whole = len(after["ra"]) == N
        if name != "plain" and not said and not whole and not change.what.startswith("dataproduct"):
            raise SilentError(f"{N - len(after['ra'])} of {N} rows are gone, and nothing was said")
        if change.keeps or (change.loses and not change.column and not said):
            check_same(before, after, change.what)


def _damage_folder(fuzz: Fuzz, case: Path, rng: np.random.Generator, what: list[str]) -> Change:
    files = sorted(p for p in case.rglob("*") if p.is_file())
    texts = [p for p in files if p.suffix != ".parquet"]
    path = texts[rng.integers(len(texts))] if texts and rng.random() < 0.4 else files[rng.integers(len(files))]
    named = path.relative_to(case).as_posix()
    kind = rng.random()
    if fuzz.harmless or kind > 0.25:
        parquet = path.suffix == ".parquet"
        change = fuzz.damage(path, rng, what, *((table_mutator(".parquet"),) if parquet else ()))
        what[:] = [f"{named}: {change.what}"]
        return change
    if kind < 0.08:
        path.unlink()
        change = Change(b"", f"{named} removed", "a file")
    elif kind < 0.16:
        other = path.with_name(path.name.replace("Npix=", "Npix=1") if "Npix=" in path.name else f"more{path.suffix}")
        shutil.copyfile(path, other)
        change = Change(b"", f"{named} again as {other.name}")
    else:
        path.unlink()
        path.mkdir()
        change = Change(b"", f"{named} is a folder", "a file")
    what.append(change.what)
    fuzz.say(what)
    return change


def _rows(folder: Path, name: str, chunked: int) -> dict[str, Any]:
    """The rows in order of their ids."""
    from astropy.table import vstack

    from skygraft import read_catalog
    from skygraft.catalog.io import iter_catalog

    path = folder / "made" if name == "written" else folder
    table = vstack(list(iter_catalog(path, chunk_rows=10))) if chunked else read_catalog(path)
    columns = {n: np.asarray(getattr(table[n], "value", table[n])) for n in table.colnames}
    order = np.lexsort((columns["dec"], columns["ra"], columns["injection_id"]))
    return {n: v[order] for n, v in columns.items() if n in sky_rows(1)}


# --- stamps

_SHAPE = (9, 11)


def _image() -> Any:
    return Blobs().stamp(np.diag([0.2, 0.2]), _SHAPE).astype(np.float32)


def _header(**more: Any) -> fits.Header:
    header = wcs_header(turned(0.2, 30.0), _SHAPE)
    header.update(more)
    return header


def _one(folder: Path) -> list[tuple[str, int]]:
    fits.writeto(folder / "a.fits", _image(), _header())
    return [("a.fits", -1)]


def _hdus(folder: Path) -> list[tuple[str, int]]:
    """Several images, one of them compressed, without a WCS."""
    made: list[Any] = [fits.PrimaryHDU(), fits.ImageHDU(_image(), _header(), "SCI")]
    made.append(fits.CompImageHDU(_image(), name="TILED", compression_type="GZIP_1"))
    fits.HDUList(made).writeto(folder / "a.fits")
    return [("a.fits[SCI]", -1), ("a.fits[TILED]", -1), ("a.fits", 0)]


def _cube(folder: Path) -> list[tuple[str, int]]:
    fits.writeto(folder / "a.fits", np.stack([_image(), 2 * _image(), 3 * _image()]), _header(CTYPE3="VELO"))
    return [("a.fits", 1), ("a.fits", 2)]


def _hdf5(folder: Path) -> list[tuple[str, int]]:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        made = file.create_dataset("deep/cube", data=np.stack([_image(), 2 * _image()]), chunks=(1, *_SHAPE),
                                   compression="gzip")  # fmt: skip
        made.attrs.update({k: v for k, v in _header().items() if k})
        file["flat"] = _image()
    return [("a.h5:/deep/cube", 1), ("a.h5:/flat", -1)]


def _zarr(version: int) -> Callable[[Path], list[tuple[str, int]]]:
    def write(folder: Path) -> list[tuple[str, int]]:
        import zarr

        root = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=version)
        cube = root.create_array("cube", data=np.stack([_image(), 2 * _image()]), chunks=(1, *_SHAPE))
        cube.attrs.update({k: v for k, v in _header().items() if k})
        root.create_array("flat", data=_image())
        return [("a.zarr/cube", 1), ("a.zarr/flat", -1)]

    return write


_STAMPS: dict[str, Callable[[Path], list[tuple[str, int]]]] = {
    "fits": _one, "hdus": _hdus, "cube": _cube, "hdf5": _hdf5, "zarr2": _zarr(2), "zarr3": _zarr(3),
}  # fmt: skip


class Stamps:
    """The target of damaged stamps."""

    WEIGHTS: ClassVar[dict[str, float]] = {"hdf5": 1.5}

    @staticmethod
    def make(folder: Path) -> list[str]:
        """Write the files, each with the names of its stamps in ``stamps.json``."""
        for name, write in _STAMPS.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "stamps.json").write_text(json.dumps(write(folder / name)))
        return list(_STAMPS)

    @staticmethod
    def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
        """Read a stamp of a damaged file; what is accepted is finite and has light, a scale that is one, or none."""
        from skygraft.render.stamp_files import read_stamp

        sound = fuzz.folder / "stamps" / name
        stamps = json.loads((sound / "stamps.json").read_text())
        # The state of files is what stamps are kept under: a case is a folder of its own.
        case = case.with_name(f"case-{fuzz.number}")
        shutil.rmtree(case, ignore_errors=True)
        copy_tree(sound, case)
        try:
            path, index = stamps[rng.integers(len(stamps))]
            before = fuzz.known(f"stamps/{name}/{path}/{index}", lambda: read_stamp(sound / path, index))
            files = sorted(p for p in case.rglob("*") if p.is_file() and p.name != "stamps.json" and p.stat().st_size)
            change = fuzz.damage(files[rng.integers(len(files))], rng, what)
            stamp = read_stamp(case / path, index)
            if not np.isfinite(stamp.pixels).all() or not np.isfinite([stamp.total, stamp.absolute]).all():
                raise SilentError("pixels are not finite")
            if stamp.jacobian is not None and not abs(np.linalg.det(stamp.jacobian)) > 0:
                raise SilentError("the scale is not finite, or nothing")
            if change.noticeable:
                _same_stamp(before, stamp, change)
        finally:
            shutil.rmtree(case, ignore_errors=True)


def _same_stamp(before: Any, after: Any, change: Change) -> None:
    # Other images have other numbers then; and tiles of floats without scales are another way to store them.
    renumbered = change.loses.startswith("HDU") or "ZSCALE" in change.loses or "ZZERO" in change.loses
    if not np.array_equal(before.pixels, after.pixels) and not renumbered:
        raise SilentError(f"the pixels are others, and nothing was said of {change.loses}")
    if before.jacobian is not None and after.jacobian is not None:
        if not np.allclose(before.jacobian, after.jacobian, rtol=1e-4, atol=1e-6):
            raise SilentError(f"the scale is another, and nothing was said of {change.loses}")
    elif (before.jacobian is None) != (after.jacobian is None):
        raise SilentError(f"the WCS is gone or new, and nothing was said of {change.loses}")
