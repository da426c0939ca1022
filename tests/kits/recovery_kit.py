"""Recovery tables as `skygraft recover` writes them, of a campaign's truth and of what a test calls found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.campaign import Campaign


def write_recovery(campaign: Campaign, is_found: Callable[[dict[str, Any]], bool]) -> None:
    """Write them; missed fakes are below the threshold, and a folder of parts with other columns lies beside them."""
    for path in campaign.layout.truth.glob("tract=*/patch=*/*.parquet"):
        table = pq.read_table(path, partitioning=None)
        rows = table.to_pylist()
        found = [is_found(row) for row in rows]
        table = table.append_column("found", pa.array(found, pa.bool_()))
        table = table.append_column("reason", pa.array(["" if f else "below threshold" for f in found], pa.string()))
        table = table.append_column("usable", pa.array([row["stamp_size"] > 0 for row in rows], pa.bool_()))
        target = campaign.layout.root / "recovery" / path.relative_to(campaign.layout.truth)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
    parts = campaign.layout.root / "recovery" / "parts" / "tract=0" / "patch=0"
    parts.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"something_else": [1]}), parts / "one.parquet")
