"""Stamps in catalogues: how they are named, where they are looked for, and that a change of a file is seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

from skygraft.catalog import (
    normalize_catalog,
    partition_catalog,
    read_catalog,
    read_partitions,
    stamp_paths,
    write_catalog,
)
from skygraft.catalog.partition_read import read_stored
from skygraft.catalog.stamp_paths import IDENTITY, StampAddress, parse_stamp, stamp_identities, stamps_in_band
from skygraft.errors import CatalogError
from skygraft.planning.selection import RowDigests


@pytest.mark.parametrize(
    ("text", "kind", "path", "part"),
    [
        ("/a/b.fits", "fits", "/a/b.fits", ""),
        ("/a/b.fits[SCI]", "fits", "/a/b.fits", "SCI"),
        ("/a/b.fits[SCI,2]", "fits", "/a/b.fits", "SCI,2"),
        ("/a/b.fits.gz[3]", "fits", "/a/b.fits.gz", "3"),
        ("/a/b.h5:/x/y", "hdf5", "/a/b.h5", "x/y"),
        ("/a/b.HDF5:x", "hdf5", "/a/b.HDF5", "x"),
        ("/a/b.h5", "hdf5", "/a/b.h5", ""),
        ("/a/b.zarr/x/y", "zarr", "/a/b.zarr", "x/y"),
        ("/a/b.zarr", "zarr", "/a/b.zarr", ""),
        ("/a.zarr.d/b.fits", "fits", "/a.zarr.d/b.fits", ""),
    ],
)
def test_stamps_are_named_in_their_files(text: str, kind: str, path: str, part: str) -> None:
    assert parse_stamp(text) == StampAddress(kind, Path(path), part)  # type: ignore[arg-type]


def rows(n: int = 3, **columns: object) -> dict[str, object]:
    return {
        "injection_id": np.arange(n),
        "ra": np.linspace(150.0, 150.1, n),
        "dec": np.full(n, 2.0),
        "source_type": ["Stamp"] * n,
        "mag_g": np.full(n, 20.0),
        "mag_r": np.full(n, 20.0),
    } | columns


def test_the_stamp_of_a_band_is_that_of_its_column_or_of_its_path() -> None:
    table = normalize_catalog(rows(stamp=["a.fits", "b-{band}.fits", ""], stamp_g=["", "bg.fits", "cg.h5:/x"]))
    assert stamps_in_band(table, "g").tolist() == ["a.fits", "bg.fits", "cg.h5:/x"]
    assert stamps_in_band(table, "r").tolist() == ["a.fits", "b-r.fits", ""]


def test_columns_of_stamps_are_read_and_checked() -> None:
    table = normalize_catalog(
        rows(stamp=["a", "b", "c"], stamp_flux=["row", "stamp", ""], stamp_zeropoint=[np.nan, 27.0, np.nan])
        | {"stamp_index": [-1, 4, 0], "stamp_rotation": [10.0, np.nan, 0.0]}
    )
    assert table["stamp_flux"].tolist() == ["row", "stamp", ""]
    assert table["stamp_index"].tolist() == [-1, 4, 0]
    assert table["stamp_rotation"].value.tolist() == [10.0, 0.0, 0.0]
    with pytest.raises(CatalogError, match="stamp_flux: stamp needs stamp_zeropoint"):
        normalize_catalog(rows(stamp=["a", "b", "c"], stamp_flux=["row", "stamp", ""]))
    with pytest.raises(CatalogError, match="stamp_flux must be row"):
        normalize_catalog(rows(stamp=["a", "b", "c"], stamp_flux="stamp", stamp_zeropoint=27.0, light_curve="x"))
    with pytest.raises(CatalogError, match="needs the path of its image"):
        normalize_catalog(rows(stamp=["a", "", "c"]))
    with pytest.raises(CatalogError, match="stamp_index = -2 is not"):
        normalize_catalog(rows(stamp=["a", "b", "c"], stamp_index=[-2, 0, 0]))


def catalogue(folder: Path, **columns: object) -> Path:
    path = folder / "cat" / "fakes.parquet"
    path.parent.mkdir(exist_ok=True)
    given = {name: [value] * 3 if isinstance(value, str) else value for name, value in columns.items()}
    Table(rows(**given)).write(path, overwrite=True)
    return path


def test_paths_are_relative_to_the_catalogue(tmp_path: Path) -> None:
    for name in ("a-g.fits", "a-r.fits", "b.h5"):
        (tmp_path / name).touch()
    (tmp_path / "c.zarr").mkdir()
    path = catalogue(tmp_path, stamp=["../a-{band}.fits[1]", "../b.h5:/x", "../c.zarr/y"])
    table = read_catalog(path)
    assert table["stamp"].tolist() == [f"{tmp_path}/{n}" for n in ("a-{band}.fits[1]", "b.h5:/x", "c.zarr/y")]
    (tmp_path / "a-r.fits").unlink()
    with pytest.raises(CatalogError, match=r"'\.\./a-r\.fits\[1\]' is not at .*a-r\.fits") as caught:
        read_catalog(path)
    assert caught.value.row == 0


def test_no_stamp_is_needed_in_a_band_without_a_magnitude(tmp_path: Path) -> None:
    (tmp_path / "a-g.fits").touch()
    path = catalogue(tmp_path, stamp="../a-{band}.fits", mag_r=np.full(3, np.nan))
    assert len(read_catalog(path)) == 3
    path = catalogue(tmp_path, stamp_g="../a-g.fits", stamp_r="../a-r.fits", mag_r=np.full(3, np.nan))
    assert len(read_catalog(path)) == 3


def test_a_missing_stamp_is_left_to_be_flagged_in_its_image(tmp_path: Path) -> None:
    path = catalogue(tmp_path, stamp="gone.fits")
    table = read_catalog(path, on_bad="flag")
    assert not table["flags"].any()
    assert table["stamp"][0] == str(tmp_path / "cat" / "gone.fits")


def test_each_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(tmp_path / f"{k}.fits") for k in range(4)]
    for path in paths[:3]:
        Path(path).write_text(path)
    looks: list[StampAddress] = []
    real = stamp_paths.identity_of
    monkeypatch.setattr(stamp_paths, "identity_of", lambda address: looks.append(address) or real(address))
    n = 4000
    table = QTable(rows(n, stamp=[paths[k % 4] for k in range(n)], source_type=["Stamp"] * n))
    found = stamp_identities(table)
    assert found is not None
    assert len(looks) == 4
    assert len(set(found.tolist())) == 4
    assert stamp_identities(QTable(rows())) is None


class OneTract:
    def locate(self, ra, dec):
        return np.zeros(len(ra), dtype=np.int64), np.zeros(len(ra), dtype=np.int64)

    def to_dict(self):
        return {"kind": "one"}


@pytest.mark.parametrize("as_file", [False, True])
def test_a_file_that_changes_changes_its_rows_fingerprints_and_no_others(tmp_path: Path, as_file: bool) -> None:
    for name in ("a.fits", "b.fits"):
        fits.writeto(tmp_path / name, np.ones((4, 4)))
    path = tmp_path / "fakes.parquet"
    given = normalize_catalog(
        rows(stamp=[str(tmp_path / "a.fits"), str(tmp_path / "b.fits"), str(tmp_path / "a.fits")])
    )
    write_catalog(given, path)
    out, source = tmp_path / "out", path if as_file else given

    def partition() -> tuple[bool, list[list[int]]]:
        reused = partition_catalog(source, OneTract(), out).reused
        return reused, RowDigests(read_stored(out, [(0, 0)])).of("r").tolist()

    first = partition()
    assert first[0] is False
    assert partition() == (True, first[1])
    os.utime(tmp_path / "b.fits", ns=(5, 5))
    changed, after = partition()
    assert changed is False
    assert [a == b for a, b in zip(first[1], after, strict=True)] == [True, False, True]
    (tmp_path / "b.fits").unlink()
    if not as_file:
        gone = partition()
        assert gone[0] is False
        assert gone[1][1] not in (first[1][1], after[1])


def test_a_catalogue_without_stamps_has_no_such_column(tmp_path: Path) -> None:
    stars = normalize_catalog(rows(source_type=["Star"] * 3))
    partition_catalog(stars, OneTract(), tmp_path / "out")
    assert IDENTITY not in read_partitions(tmp_path / "out", [(0, 0)]).colnames
