"""Triplets come back from both kinds of file as they were written, over the borders of chunks."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from skygraft.views.triplet_files import COLUMNS, IMAGES, check_output, open_triplets, open_writer

N, SIZE = 150, 7


def row(k: int) -> dict[str, object]:
    columns = {name: f"é{k}" if kind == "str" else k % 100 for name, (kind, _, _) in COLUMNS.items()}
    return columns | {name: np.full((SIZE, SIZE), k + j, np.float32) for j, name in enumerate(IMAGES)}


@pytest.mark.parametrize("name", ["t.h5", "t.zarr"])
@pytest.mark.parametrize("n", [0, 64, N])
def test_what_is_written_is_read(tmp_path, name, n) -> None:
    path = check_output(tmp_path / name)
    with open_writer(path, SIZE, {"campaign": "c", "seed": 3}) as writer:
        for k in range(n):
            writer.add(row(k))
        assert writer.n_rows == n
        assert not path.exists()
    with open_triplets(path) as found:
        assert dict(found.sizes) == {"triplet": n, "row": SIZE, "column": SIZE}
        assert (found.attrs["campaign"], int(found.attrs["seed"])) == ("c", 3)
        assert found.triplet.values.tolist() == list(range(n))
        assert found.band.values.tolist() == [f"é{k}" for k in range(n)]
        assert found.label.dtype == np.int8 and found.mag.values.tolist() == [k % 100 for k in range(n)]
        for j, image in enumerate(IMAGES):
            assert found[image].dtype == np.float32
            assert (found[image].values == np.arange(n)[:, None, None] + j).all()
        assert found.snr.attrs["long_name"] and found.ra.attrs["units"] == "deg"


def test_other_readers_open_them(tmp_path) -> None:
    for name in ("t.h5", "t.zarr"):
        with open_writer(tmp_path / name, SIZE, {}) as writer:
            for k in range(N):
                writer.add(row(k))
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["science"].shape == (N, SIZE, SIZE) and file["image_id"][N - 1].decode() == f"é{N - 1}"
    store = zarr.open_group(tmp_path / "t.zarr", mode="r")
    assert store["difference"].shape == (N, SIZE, SIZE) and store["band"][3] == "é3"
    one = xr.open_dataset(tmp_path / "t.h5", engine="h5netcdf")
    other = xr.open_zarr(tmp_path / "t.zarr", chunks=None)
    xr.testing.assert_equal(one, other)
    one.close()
