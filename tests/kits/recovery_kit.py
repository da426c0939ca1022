"""Recovery tables of a small campaign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skygraft.campaign import Campaign
from skygraft.recovery.recover import recover


def make_recovery(campaign: Campaign, is_found: Callable[[dict[str, Any]], bool]) -> None:
    """Detect and measure in this process, and then say of each fake whether it was found, as a test wants it."""
    recover(campaign, n_workers=0)
    tables = list(campaign.layout.root.glob("recovery/tract=*/patch=*/part-0.parquet"))
    assert tables
    for path in tables:
        table = pq.read_table(path, partitioning=None)
        found = [is_found(row) for row in table.to_pylist()]
        for name, values in (("found", found), ("reason", ["" if f else "below threshold" for f in found])):
            k = table.schema.get_field_index(name)
            table = table.set_column(k, table.schema.field(k), pa.array(values, table.schema.field(k).type))
        pq.write_table(table, path)
