"""HATS between skygraft and what others use: `hats` and LSDB read what it writes, and it reads what LSDB writes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from kits.hats_kit import sky_rows
from skygraft.catalog import read_catalog
from skygraft.catalog.hats_write import HatsWriter

# In a process of its own: both libraries take seconds to import, and pandas with them.
_READERS = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
import hats, lsdb, numpy as np, pandas as pd
from hats.io.skymap import read_skymap
from hats.io.validation import is_valid_collection
out, theirs = sys.argv[1:]
found = {"valid": is_valid_collection(out, strict=True)}
main = hats.read_hats(out).main_catalog
found["rows"] = len(main)
found["mapped"] = int(read_skymap(main, None).sum())
catalog = lsdb.open_catalog(out)
frame = catalog.compute(progress_bar=False).reset_index()
found["ids"] = sorted(frame.injection_id.tolist())
moved = pd.DataFrame({
    "number": frame.injection_id, "ra": frame.ra, "dec": frame.dec - 0.8 / 3600, "source_type": "Star", "mag_r": 20.0,
})
other = lsdb.from_dataframe(moved, ra_column="ra", dec_column="dec", margin_threshold=5.0, partition_rows=150)
pairs = other.crossmatch(
    catalog, radius_arcsec=1.0, n_neighbors=1, suffixes=("_a", "_b"), suffix_method="all_columns",
    require_right_margin=True,
).compute(progress_bar=False)
found["pairs"] = sorted(zip(pairs.number_a.tolist(), pairs.injection_id_b.tolist()))
other.write_catalog(theirs, catalog_name="theirs", progress_bar=False)
other.write_catalog(theirs + "-folders", catalog_name="theirs", npix_suffix="/", progress_bar=False)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_hats_and_lsdb_read_it_and_what_they_write_is_read(tmp_path):
    for name in ("hats", "lsdb"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")
    rows = sky_rows(400)
    # On both sides of RA 0 and of the equator, where pixels of order 0 meet.
    rows["ra"], rows["dec"] = (rows["ra"] / 300 - 0.6) % 360, rows["dec"] / 120
    with HatsWriter(tmp_path / "ours", max_rows=150, margin_arcsec=5.0) as writer:
        writer.write(pa.table({key: pa.array(values.tolist()) for key, values in rows.items()}))
    assert 3 <= writer.summary.n_partitions < 12
    code = [sys.executable, "-c", _READERS, str(tmp_path / "ours"), str(tmp_path / "theirs")]
    # Their loops take seven seconds to compile, and a moment as they stand.
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ids = rows["injection_id"].tolist()
    assert found["valid"]
    assert (found["rows"], found["mapped"], found["ids"]) == (400, 400, ids)
    assert found["pairs"] == [[i, i] for i in ids]
    for name in ("theirs", "theirs-folders"):
        table = read_catalog(tmp_path / name, columns={"injection_id": "number"})
        assert sorted(table["injection_id"].tolist()) == ids
