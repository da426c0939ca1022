"""The tables that are generated from the code have every column, key, format and command."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import BaseModel

from skygraft.catalog.schema import COLUMNS, MOFFAT_RANGE, SERSIC_RANGE, SOURCE_TYPES
from skygraft.config.campaign import CampaignConfig
from skygraft.config.cluster_kinds import ClusterConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    pytest.importorskip("sphinx", reason="needs the dependency group docs: uv sync --group docs")
    pytest.importorskip("numpydoc")
    spec = importlib.util.spec_from_file_location("generated_tables", DOCS / "_extensions/generated_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(markdown: str) -> dict[str, list[str]]:
    """The cells of the tables in a text, by what their first cell names."""
    found = {}
    lines = markdown.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("| `") and not after.startswith("| ---"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_every_table_is_on_a_page(tables: ModuleType) -> None:
    text = "".join(page.read_text() for page in DOCS.glob("*.md"))
    for name in tables.TABLES:
        assert f"```{{{name}}}" in text, name


def test_every_column_of_catalogues_is_there_with_its_unit(tables: ModuleType) -> None:
    found = rows(tables.catalogue_columns())
    assert set(found) == {*COLUMNS, "mag_<band>"}
    for name, (unit, meaning, allowed, missing) in found.items():
        spec = COLUMNS.get(name)
        assert unit == ((spec.unit or "") if spec else "mag")
        assert len(meaning) > 5 and allowed and missing
    assert found["ra"][2] == "0 to 360"
    assert found["n"][2] == "0.3 to 6.2" and SERSIC_RANGE == (0.3, 6.2)
    assert found["moffat_beta"][2] == "1.5 to 100" and MOFFAT_RANGE == (1.5, 100)
    assert found["q"][3] == "1" and found["disk_n"][3] == "1" and found["bulge_n"][3] == "4"
    assert found["pm_dec"][3] == "0" and found["trunc"][3] == "none" and found["mag_per_pixel"][3] == "false"
    assert all(f"`{kind}`" in found["source_type"][2] for kind in SOURCE_TYPES)


def keys(model: type[BaseModel]) -> Iterator[str]:
    """Every key of a section and of those in it."""
    for name, field in model.model_fields.items():
        yield name
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, ClusterConfig):
            yield from keys(inner)


def test_every_key_of_the_campaign_file_is_there_with_a_meaning(tables: ModuleType) -> None:
    text = tables.campaign_keys()
    found = rows(text)
    assert set(keys(CampaignConfig)) <= set(found)
    assert {"repo", "output_run", "schema_type"} <= set(found)
    for line in text.splitlines():
        if line.startswith("| `"):
            assert len(line.split("|")[3].strip()) > 10, line
    # A default as the page writes it is what the file's default is; other sections have keys of the same names.
    found = rows(text.split("## `injection`\n")[1].split("\n## ")[0])
    for key in ("flux_mode", "stars", "noise", "seed", "variance"):
        default = CampaignConfig.model_fields["injection"].default
        assert found[key][0] == "" or yaml.safe_load(found[key][0].strip("`")) == getattr(default, key)


def test_every_format_and_dialect_is_there(tables: ModuleType) -> None:
    formats = {"lsst_afw", "lsst_images", "legacy_survey", "legacy_brick", "legacy_cutout", "des", "megapipe", "fits"}
    assert formats | {"sdss_frame", "ztf"} <= set(rows(tables.image_formats()))
    dialects = {"native", "lsst", "insertfakes", "synpipe", "obiwan", "skycatalogs", "romanisim", "catsim"}
    assert set(rows(tables.catalogue_dialects())) == dialects


def test_every_command_is_there_with_its_options(tables: ModuleType) -> None:
    text = tables.commands()
    commands = re.findall(r"^## skygraft (\w+(?: \w+)?)$", text, re.M)
    assert set(commands) >= {
        "catalog generate",
        "catalog show",
        "demo",
        "inspect",
        "inject",
        "index",
        "plan",
        "run",
        "status",
        "verify",
    }
    for option in ("--retry-failed", "--checksums", "--cluster", "--watch", "--flux-mode"):
        assert f"`{option}`" in text
