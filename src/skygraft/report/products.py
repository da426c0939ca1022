"""The measurements of a campaign that a report reads: recovery, verification and apertures, where they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skygraft.campaign.products import ProductLayout
from skygraft.json_text import parse_json
from skygraft.report.blocks import Block, Column, Note, Table, cell
from skygraft.wording import number

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["product_notes", "product_rows", "product_settings", "product_tables"]

_MOST_ROWS = 200
_FOLDED = 10


def product_tables(campaign: Campaign, name: str) -> Any:
    """The tables of a product, as an Arrow dataset; None where there are none."""
    import pyarrow.dataset as ds

    layout = ProductLayout(campaign.layout.root, name)
    # Not the folder as a whole, which has the parts of single images too.
    files = [str(path) for path in layout.tables()]
    if not files:
        return None
    partitioning = ds.partitioning(flavor="hive")
    return ds.dataset(files, format="parquet", partitioning=partitioning, partition_base_dir=str(layout.folder))


def product_settings(campaign: Campaign, name: str) -> dict[str, Any]:
    """The settings that a product was made with; empty where they are missing or damaged."""
    try:
        content = parse_json(ProductLayout(campaign.layout.root, name).settings.read_bytes())
    except (OSError, ValueError):
        return {}
    settings = content.get("settings") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else {}


def product_rows(campaign: Campaign, name: str, table: str) -> list[dict[str, Any]]:
    """The rows of a small table of a product, such as ``verdicts``; none where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(
            campaign.layout.root / name / f"{table}.parquet", partitioning=None
        ).to_pylist()
    except (OSError, pa.ArrowException):
        return []
    return rows


def product_notes(campaign: Campaign, name: str, command: str) -> list[Block]:
    """What a reader must know of a product: that its tables are not complete, or that images failed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout, blocks = ProductLayout(campaign.layout.root, name), list[Block]()
    if not layout.settings.is_file():
        text = f"The tables of {name} are not complete: what makes them was interrupted, or has not ended."
        blocks.append(Note("warning", text, command))
    try:
        table = pq.read_table(layout.images, columns=["image_id", "error", "message"], partitioning=None)
    except (OSError, KeyError, pa.ArrowException):
        return blocks
    failed = [row for row in table.to_pylist() if row["error"]]
    if failed:
        text = f"{name.capitalize()} failed on {len(failed):,} of {number(table.num_rows, 'image')}."
        rows = [[cell(row[key]) for key in ("image_id", "error", "message")] for row in failed[:_MOST_ROWS]]
        columns = (Column("image", long=True), Column("error", code=True), Column("what it says", long=True))
        blocks += [
            Note("bad", text, command),
            Table(f"Images on which {name} failed", columns, rows, len(failed), folded=len(rows) > _FOLDED),
        ]
    return blocks
