"""The measurements of a campaign that a report reads: recovery, verification and apertures, where they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skygraft.json_text import parse_json

if TYPE_CHECKING:
    from skygraft.campaign import Campaign

__all__ = ["product_settings", "product_tables"]


def product_tables(campaign: Campaign, name: str) -> Any:
    """The tables of a product.

    Parameters
    ----------
    campaign : Campaign
    name : {"recovery", "verification", "apertures"}

    Returns
    -------
    pyarrow.dataset.Dataset or None
        None where there are no tables.
    """
    import pyarrow.dataset as ds

    folder = campaign.layout.root / name
    # Not the folder as a whole, which has the parts of single images too.
    files = sorted(str(path) for path in folder.glob("tract=*/patch=*/*.parquet"))
    if not files:
        return None
    partitioning = ds.partitioning(flavor="hive")
    return ds.dataset(files, format="parquet", partitioning=partitioning, partition_base_dir=str(folder))


def product_settings(campaign: Campaign, name: str) -> dict[str, Any]:
    """The settings that a product was made with; empty where they are missing or damaged."""
    try:
        content = parse_json((campaign.layout.root / name / "settings.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
