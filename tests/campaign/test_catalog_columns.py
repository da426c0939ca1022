"""A campaign whose catalogue has its numbers in types that are exact, but not those of skygraft's own files."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kits.tiny_campaign import write_tiny_campaign
from skygraft.campaign import Campaign
from skygraft.catalog.io import read_table

BIG = 2**53 + 1


def test_decimals_and_texts_reach_the_images_that_they_are_for(tmp_path: Path) -> None:
    config = write_tiny_campaign(tmp_path, n_images=2)
    stars = pq.read_table(tmp_path / "fakes.parquet")
    n = stars.num_rows
    ids = [BIG + 10 * i for i in range(n)]
    visits = [500 + i % 2 for i in range(n)]
    columns = {
        "injection_id": pa.array([str(number) for number in ids], pa.string_view()),
        "visit": pa.array([Decimal(visit) for visit in visits], pa.decimal128(10, 0)),
        "mag_r": pa.array([Decimal(20)] * n, pa.decimal128(38, 9)),
    }
    for name, values in columns.items():
        at = stars.column_names.index(name) if name in stars.column_names else None
        if at is None:
            stars = stars.append_column(name, values)
        else:
            stars = stars.set_column(at, pa.field(name, values.type), values)
    pq.write_table(stars, tmp_path / "fakes.parquet")
    summary = Campaign.from_yaml(config).run(n_workers=0)
    assert (summary.n_done, summary.n_drawn, summary.ok) == (2, n, True)
    parts = [read_table(path) for path in sorted((tmp_path / "out" / "truth").rglob("*.parquet"))]
    drawn = {
        (int(row["injection_id"]), int(row["visit"])) for part in parts for row in part if row["flux_deposited"] > 0
    }
    assert drawn == set(zip(ids, visits, strict=True))
    assert {float(mag) for part in parts for mag in part["mag"].value} == {20.0}
