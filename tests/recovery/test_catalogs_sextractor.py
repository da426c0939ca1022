"""Source Extractor's own catalogues: read in each of its formats, and matched with the fakes of a small campaign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from kits.catalogs_kit import COLUMNS, SEX, pair_of, run_sextractor, write_star_campaign
from kits.plain_images import SCALE
from skygraft.campaign import Campaign
from skygraft.campaign.pairs import ImagePair
from skygraft.cli import app
from skygraft.config.recovery_catalogs import RecoveryCatalogs
from skygraft.errors import CatalogError, CorruptFileError
from skygraft.recovery.catalogs import read_detections
from skygraft.recovery.catalogs_terms import Detections, ImageContext
from skygraft.recovery.matching_catalogs import measure_from_catalogs
from skygraft.recovery.measuring import measure_pair

pytestmark = [
    pytest.mark.skipif(SEX is None, reason="Source Extractor is not installed"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    campaign = write_star_campaign(tmp_path_factory.mktemp("stars"))
    assert campaign.run(n_workers=0).ok
    folder = campaign.layout.root.parent
    run_sextractor(folder / "raw/field_1.fits", folder / "cats/before/field_1.cat")
    run_sextractor(campaign.layout.images / "raw/field_1.fits", folder / "cats/after/field_1.cat")
    return campaign


@pytest.fixture(scope="module")
def folder(campaign: Campaign) -> Path:
    return campaign.layout.root.parent


@pytest.fixture(scope="module")
def pair(campaign: Campaign) -> ImagePair:
    return pair_of(campaign)


def catalogs(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"injected": str(folder / "cats/after/{file}.cat"), "original": str(folder / "cats/before/{file}.cat")}
    return {"catalogs": given | changes}


def detections(folder: Path, pair: ImagePair, name: str, **settings: Any) -> Detections:
    context = ImageContext.of(pair)
    return read_detections(folder / name, RecoveryCatalogs(injected="x", **settings), context)


def test_its_detections_find_what_ours_do(folder: Path, pair: ImagePair) -> None:
    """SEP is the same code: with the same threshold and filter the same fakes are found, and fluxes agree."""
    theirs = measure_from_catalogs(pair, catalogs(folder)).to_pydict()
    ours = measure_pair(pair, {}).to_pydict()
    assert list(theirs) == list(ours)
    agree = np.array(theirs["found"]) == np.array(ours["found"])
    assert np.count_nonzero(theirs["found"]) > 30 and np.count_nonzero(~agree) <= 1
    both = np.array(theirs["found"]) & agree
    for name in ("flux_ap_3", "flux_ap_6", "flux_kron"):
        one, two = (np.array(table[name])[both] for table in (theirs, ours))
        error = np.array(theirs[f"{name}_error"])[both]
        # Their backgrounds differ a little, and Source Extractor's ellipses are not quite SEP's.
        assert np.median(np.abs(one - two) / error) < 0.3, name
    assert np.allclose(np.array(theirs["ra_out"])[both], np.array(theirs["ra"])[both], atol=0.3 / 3600)


def test_magnitudes_are_the_truth_of_bright_stars(folder: Path, pair: ImagePair) -> None:
    table = measure_from_catalogs(pair, catalogs(folder)).to_pandas()
    bright = table[table.found & (table.source_type == "Star") & (table.mag < 19) & (table.blend == "")]
    assert len(bright) >= 5
    assert np.abs(np.median((bright.mag_cal - bright.mag) / bright.mag_cal_error)) < 1.5
    assert np.median(bright.class_star_out) > 0.9
    galaxies = table[table.found & (table.source_type == "Sersic") & (table.mag < 19)]
    turned = np.mod(galaxies.position_angle_out - 30.0 + 90.0, 180.0) - 90.0
    assert np.abs(np.median(turned)) < 10 and np.median(galaxies.half_light_radius_out) > 0.6


def test_fake_on_a_star_is_ambiguous(folder: Path, pair: ImagePair) -> None:
    with_original = measure_from_catalogs(pair, catalogs(folder)).to_pydict()
    assert with_original["reason"][0] == "ambiguous" and with_original["original_flux_fraction"][0] > 10
    # Without a catalogue of the original, the detections on its pixels say so.
    alone = measure_from_catalogs(pair, catalogs(folder, original=None)).to_pydict()
    assert alone["reason"][0] == "ambiguous" and alone["detection_id"][0] >= 0


@pytest.mark.parametrize("kind", ["FITS_LDAC", "FITS_1.0", "ASCII_HEAD"])
def test_formats_say_the_same(folder: Path, pair: ImagePair, kind: str) -> None:
    name = f"cats/{kind}.cat"
    run_sextractor(pair.after.path or Path(), folder / name, kind)
    # Only the first names the apertures' diameters.
    given = {} if kind == "FITS_LDAC" else {"phot_apertures": (6, 12, 24)}
    found = detections(folder, pair, name, **given)
    expected = detections(folder, pair, "cats/after/field_1.cat")
    assert found.kind == "sextractor" and len(found) == len(expected) > 40
    # Text has four digits.
    assert np.allclose(found.ra, expected.ra, atol=2e-7) and np.array_equal(found.id, expected.id)
    assert list(found.fluxes) == list(expected.fluxes) == ["cal", "kron", "ap_3", "ap_6", "ap_12"]
    for one, two in ((found.fluxes[k], expected.fluxes[k]) for k in found.fluxes):
        assert np.allclose(one.value, two.value, rtol=1e-5, atol=1e-2)
    for term in ("size", "fwhm", "axis_ratio", "class_star"):
        assert np.allclose(getattr(found, term), getattr(expected, term), atol=2e-3), term
    assert np.array_equal(found.flags, expected.flags)


def test_pixels_from_one_where_there_is_no_sky(folder: Path, pair: ImagePair) -> None:
    columns = [c for c in COLUMNS if "2000" not in c]
    run_sextractor(pair.after.path or Path(), folder / "cats/pixels.cat", columns=columns)
    run_sextractor(
        pair.after.path or Path(), folder / "cats/sky.cat", columns=[c for c in COLUMNS if c != "THETA_IMAGE"]
    )
    found, expected = detections(folder, pair, "cats/pixels.cat"), detections(folder, pair, "cats/sky.cat")
    one, two = (SkyCoord(d.ra, d.dec, unit="deg") for d in (found, expected))
    assert one.separation(two).arcsec.max() < 1e-3
    # The angle on the pixels becomes one on the sky: east is to the left here.
    turned = np.mod(found.position_angle - expected.position_angle + 90, 180) - 90
    assert np.abs(turned).max() < 0.1


def test_magnitudes_alone(folder: Path, pair: ImagePair) -> None:
    columns = [c for c in COLUMNS if not c.startswith("FLUX_A")]
    for kind, name in (("FITS_LDAC", "cats/mags.cat"), ("ASCII_HEAD", "cats/mags.txt")):
        run_sextractor(pair.after.path or Path(), folder / name, kind, columns=columns)
    found, expected = detections(folder, pair, "cats/mags.cat"), detections(folder, pair, "cats/after/field_1.cat")
    positive = expected.fluxes["kron"].value > 0
    assert np.allclose(found.fluxes["kron"].value[positive], expected.fluxes["kron"].value[positive], rtol=1e-5)
    with pytest.raises(CatalogError, match="zeropoint of MAG_AUTO is not known"):
        detections(folder, pair, "cats/mags.txt")
    text = detections(folder, pair, "cats/mags.txt", zeropoint=27.0)
    assert np.allclose(text.fluxes["kron"].value[positive], expected.fluxes["kron"].value[positive], rtol=1e-3)


def test_zeropoints_that_disagree(folder: Path, pair: ImagePair) -> None:
    after = pair.after.path or Path()
    run_sextractor(after, folder / "cats/zp/field_1.cat", MAG_ZEROPOINT=26.5)
    given = catalogs(folder, injected=str(folder / "cats/zp/{file}.cat"), original=None)
    with pytest.raises(CatalogError, match=r"zeropoint 26\.5 .* image .* says 27\.0000"):
        measure_from_catalogs(pair, given)
    image, theirs = (
        measure_from_catalogs(pair, {"catalogs": given["catalogs"] | {"zeropoint": zp}}).to_pandas()
        for zp in ("image", 26.5)
    )
    assert np.allclose((image.mag_kron - theirs.mag_kron)[image.found & (image.flux_kron > 0)], 0.5)
    # 0 is what nobody set: instrumental magnitudes.
    run_sextractor(after, folder / "cats/zp0/field_1.cat", MAG_ZEROPOINT=0.0)
    zero = measure_from_catalogs(pair, catalogs(folder, injected=str(folder / "cats/zp0/{file}.cat"), original=None))
    assert np.allclose(zero["mag_kron"].to_numpy(), image.mag_kron, equal_nan=True)


def test_chosen_column(folder: Path, pair: ImagePair) -> None:
    table = measure_from_catalogs(pair, catalogs(folder, calibrated="FLUX_AUTO")).to_pandas()
    assert np.allclose(table.flux_cal, table.flux_kron, equal_nan=True)
    with pytest.raises(CatalogError, match="calibrated: names 'FLUX_BEST'"):
        measure_from_catalogs(pair, catalogs(folder, calibrated="FLUX_BEST"))


def test_catalogues_that_are_not_of_this_image(folder: Path, pair: ImagePair) -> None:
    with pytest.raises(CatalogError, match="no such catalogue"):
        measure_from_catalogs(pair, catalogs(folder, injected=str(folder / "cats/{file}.none")))
    (folder / "cats/same").mkdir(exist_ok=True)
    (folder / "cats/same/field_1.cat").write_bytes((folder / "cats/before/field_1.cat").read_bytes())
    with pytest.raises(CatalogError, match="before and after injection have the same detections"):
        measure_from_catalogs(pair, catalogs(folder, injected=str(folder / "cats/same/{file}.cat")))
    with fits.open(folder / "cats/after/field_1.cat") as hdus:
        hdus[2].data["ALPHA_J2000"] += 3.0
        hdus.writeto(folder / "cats/moved.cat", overwrite=True)
    with pytest.raises(CatalogError, match=r"none of its \d+ detections lies on the image .* 2\.98\d deg"):
        detections(folder, pair, "cats/moved.cat")


def test_truncated(folder: Path, pair: ImagePair) -> None:
    content = (folder / "cats/after/field_1.cat").read_bytes()
    (folder / "cats/short.cat").write_bytes(content[: len(content) - 2880])
    with pytest.raises(CorruptFileError):
        detections(folder, pair, "cats/short.cat")
    with fits.open(folder / "cats/after/field_1.cat") as hdus:
        fits.HDUList([*hdus[:2], fits.BinTableHDU(hdus[2].data[:-5], name="LDAC_OBJECTS")]).writeto(
            folder / "cats/cut.cat", overwrite=True
        )
    with pytest.raises(CorruptFileError, match="SEXNFIN"):
        detections(folder, pair, "cats/cut.cat")
    at = content.index(b"END", content.index(b"SIMPLE", 2880))
    (folder / "cats/bytes.cat").write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    with pytest.raises(CatalogError, match=r"bytes\.cat\[1\].*the image's header.* is no text"):
        detections(folder, pair, "cats/bytes.cat")
    run_sextractor(pair.after.path or Path(), folder / "cats/text.cat", "ASCII_HEAD")
    text = (folder / "cats/text.cat").read_text()
    (folder / "cats/text.cat").write_text(text[: len(text) - 40])
    with pytest.raises(CorruptFileError, match="this row has"):
        detections(folder, pair, "cats/text.cat", phot_apertures=(6, 12, 24))


def test_through_a_column_map(folder: Path, pair: ImagePair) -> None:
    """Parquet with names and units of its own, some rows twice: the same result."""
    expected = measure_from_catalogs(pair, catalogs(folder)).to_pandas()
    for side in ("before", "after"):
        own = Table.read(folder / f"cats/{side}/field_1.cat", hdu=2)
        table = Table(
            {
                "alpha": np.radians(own["ALPHA_J2000"].value),
                "delta": np.radians(own["DELTA_J2000"].value),
                "flux_uJy": own["FLUX_AUTO"].value * 10 ** (-0.4 * (27.0 - 23.9)) * u.uJy,
                "dflux": own["FLUXERR_AUTO"].value * 10 ** (-0.4 * (27.0 - 23.9)) * u.uJy,
                "r50": own["FLUX_RADIUS"].value * SCALE * u.arcsec,
                "star": own["CLASS_STAR"].value,
                "n": own["NUMBER"].value,
            }
        )
        twice = table[np.r_[np.arange(len(table)), 3, 4]]
        twice["alpha"][-1] += np.radians(0.05 / 3600)
        twice.write(folder / f"cats/{side}.ecsv", overwrite=True)
    names = {"ra": "alpha", "dec": "delta", "flux": "flux_uJy", "error": "dflux", "size": "r50", "class_star": "star",
             "id": "n"}  # fmt: skip
    given = {
        "injected": str(folder / "cats/after.ecsv"),
        "original": str(folder / "cats/before.ecsv"),
        "columns": names,
    }
    with pytest.raises(CatalogError, match="radians"):
        measure_from_catalogs(pair, {"catalogs": given})
    given["units"] = {"alpha": "rad", "delta": "rad"}
    table = measure_from_catalogs(pair, {"catalogs": given})
    assert b'"duplicates": 2' in table.schema.metadata[b"skygraft.catalogs"]
    found = table.to_pandas()
    for name in ("found", "reason", "detection_id"):
        assert found[name].tolist() == expected[name].tolist(), name
    assert np.allclose(found.flux_cal, expected.flux_kron, rtol=1e-5, equal_nan=True)
    assert np.allclose(found.half_light_radius_out, expected.half_light_radius_out, rtol=1e-3, equal_nan=True)
    assert np.isnan(found.flux_kron).all() and np.isnan(found.fwhm_out).all()


def test_command(campaign: Campaign, folder: Path) -> None:
    """From the YAML file: paths are relative to it, and a catalogue that was made again is read again."""
    path = folder / "with_catalogs.yaml"
    content = yaml.safe_load((folder / "campaign.yaml").read_text())
    own = {"injected": "cats/cli/{file}.cat", "original": "cats/before/{file}.cat"}
    path.write_text(yaml.safe_dump(content | {"recovery": {"catalogs": own}}))
    (folder / "cats/cli").mkdir()
    missing = CliRunner().invoke(app, ["recover", str(path), "--workers", "0", "--json"])
    assert missing.exit_code == 1
    look = CliRunner().invoke(app, ["recover", str(path), "--check-catalogs"])
    assert look.exit_code == 1 and "injected: CatalogError" in look.output
    assert "original: 20 detections of 20 rows, kind sextractor" in look.output
    (failed,) = json.loads(missing.stdout)["sweep"]["failed"]
    assert failed[1] == "CatalogError" and failed[2].startswith(f"{folder}/cats/cli/field_1.cat: there is no such")
    (folder / "cats/cli/field_1.cat").write_bytes((folder / "cats/after/field_1.cat").read_bytes())
    look = CliRunner().invoke(app, ["recover", str(path), "--check-catalogs", "--json"])
    assert look.exit_code == 0 and json.loads(look.stdout)[0]["fluxes"]["cal"] == "FLUX_APER"
    runs = []
    for change in (False, False, True):
        if change:
            run_sextractor(
                campaign.layout.images / "raw/field_1.fits", folder / "cats/cli/field_1.cat", DETECT_THRESH=5
            )
        run = CliRunner().invoke(app, ["recover", str(path), "--workers", "0", "--json"])
        assert run.exit_code == 0, run.output
        runs.append(json.loads(run.stdout))
    assert [(run["sweep"]["n_measured"], run["sweep"]["n_skipped"]) for run in runs] == [(1, 0), (0, 1), (1, 0)]
    assert runs[0]["n_found"] == runs[1]["n_found"] > runs[2]["n_found"] > 10
