"""AST frame sets against the LSST pipelines' own numbers."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs.wcsapi import HighLevelWCSWrapper
from starlink import Ast

from skygraft.errors import MissingWcsError, WcsError
from skygraft.wcs import AstWcs, local_jacobian

CASES = {
    "cfht": ("cfht_849375/calexp-849375-12.fits.fz", "cfht_849375/truth_849375.json"),
    "hsc": ("afw/obs_base/calexp.fits", "afw/obs_base/truth_calexp.json"),
} | {
    name: (f"afw_reference/{name}.fits", f"afw_reference/{name}.json")
    for name in (
        "calexp_01_tan_singlegauss",
        "calexp_02_tansip_doublegauss_gzip2",
        "calexp_03_polymap_pca_xy0",
        "calexp_05_tansip_psfex_rice",
        "calexp_06_tan_afwgaussian",
        "calexp_08_tan_warpedpsf",
        "coadd_10_coaddpsf",
    )
}


def skywcs_record(path):
    """The SkyWcs record of an LSST exposure, through its archive index."""
    with fits.open(path) as hdus:
        index = hdus[0].header["AR_HDU"] - 1
        rows = hdus[index].data
        row = rows[rows["id"] == hdus[0].header["SKYWCS_ID"]][0]
        assert row["name"] == "SkyWcs"
        return np.array(hdus[index + int(row["cat.archive"])].data["wcs"][row["row0"]])


def exposure(data_dir, case):
    image, truth = (data_dir / name for name in CASES[case])
    points = json.loads(truth.read_text())["wcs"]["points"]
    columns = {k: np.array([p[k] for p in points]).T for k in ("pixel", "sky_deg", "sky_to_pixel")}
    columns["jacobian"] = np.array([p["jac_pix2sky_arcsec"] for p in points])[:, :2, :2]
    return AstWcs.from_skywcs(skywcs_record(image)), columns


def simple_text(system="ICRS", domain="PIXELS", order="1 2"):
    """A frame set made by AST itself: 0.2 arcsec pixels, tangent at (30, 60) degrees."""
    header = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 30.0,
        "CRVAL2": 60.0,
        "CRPIX1": 1.0,
        "CRPIX2": 1.0,
        "CD1_1": -0.2 / 3600,
        "CD2_2": 0.2 / 3600,
        "RADESYS": system,
        "EQUINOX": 2000.0,
    }
    channel = Ast.FitsChan([str(card) for card in fits.Header(header).cards])
    frames = channel.read()
    # FITS pixels begin at 1, ours at 0.
    current = frames.Current
    frames.addframe(frames.Base, Ast.ShiftMap([-1.0, -1.0]), Ast.Frame(2, f"Domain={domain}"))
    frames.Base, frames.Current = frames.Current, current
    if order == "2 1":
        frames.permaxes([2, 1])
    lines = []

    class Sink:
        def astsink(self, line):
            lines.append(line)

    Ast.Channel(None, Sink()).write(frames)
    return "\n".join(lines)


@pytest.mark.data
@pytest.mark.parametrize("case", CASES)
def test_positions_agree_with_the_pipelines(data_dir, case):
    wcs, truth = exposure(data_dir, case)
    sky = np.array(wcs.pixel_to_world_values(*truth["pixel"]))
    np.testing.assert_allclose(sky, truth["sky_deg"], rtol=0, atol=1e-12)
    pixels = np.array(wcs.world_to_pixel_values(*truth["sky_deg"]))
    np.testing.assert_allclose(pixels, truth["sky_to_pixel"], rtol=0, atol=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("case", CASES)
def test_jacobians_agree_with_the_pipelines(data_dir, case):
    """The reference steps one pixel on from where its own (inexact) inverse puts the position."""
    wcs, truth = exposure(data_dir, case)
    dx, dy = truth["sky_to_pixel"] - truth["pixel"]
    steps = np.stack([np.stack([1 + dx, dx], -1), np.stack([dy, 1 + dy], -1)], axis=1)
    expected = local_jacobian(wcs, *truth["pixel"]) @ steps
    # Forward differences, and cos(dec) of the wrong end: 1e-6 of a pixel or so, larger for strong distortions.
    np.testing.assert_allclose(truth["jacobian"], expected, rtol=0, atol=2e-6)


@pytest.mark.data
@pytest.mark.parametrize("case", CASES)
def test_positions_off_the_image_come_back(data_dir, case):
    """AST's own inverse polynomial is off by hundreds of pixels out there."""
    wcs, truth = exposure(data_dir, case)
    middle = truth["pixel"].mean(axis=1)
    x, y = middle[:, None] + np.random.default_rng(1).uniform(-6000, 6000, (2, 5000))
    back = np.array(wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x, y)))
    assert np.hypot(back[0] - x, back[1] - y).max() < 0.101


@pytest.mark.data
@pytest.mark.parametrize("case", CASES)
def test_no_position_far_away_lands_on_the_image(data_dir, case):
    wcs, truth = exposure(data_dir, case)
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 5000), np.degrees(np.arcsin(rng.uniform(-1, 1, 5000)))
    ra0, dec0 = np.radians(truth["sky_deg"].mean(axis=1))
    cosine = np.sin(np.radians(dec)) * np.sin(dec0)
    cosine += np.cos(np.radians(dec)) * np.cos(dec0) * np.cos(np.radians(ra) - ra0)
    x, y = wcs.world_to_pixel_values(ra, dec)
    (x0, y0), (x1, y1) = truth["pixel"].min(axis=1), truth["pixel"].max(axis=1)
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    assert not (inside & (cosine < np.cos(np.radians(1.0)))).any()
    assert np.isnan(x[cosine < -0.05]).all()


@pytest.mark.data
def test_copies_and_threads(data_dir):
    wcs, truth = exposure(data_dir, "cfht")
    for again in (pickle.loads(pickle.dumps(wcs)), copy.deepcopy(wcs), AstWcs(wcs.text)):
        assert again == wcs
        assert hash(again) == hash(wcs)
    expected = wcs.pixel_to_world_values(*truth["pixel"])
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(wcs.pixel_to_world_values(*truth["pixel"]))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.array_equal(r, expected) for r in results)
    assert "PolyMap" in repr(wcs)


def test_a_frame_set_of_ones_own():
    wcs = AstWcs(simple_text())
    np.testing.assert_allclose(wcs.pixel_to_world_values(0.0, 0.0), (30.0, 60.0), atol=1e-12)
    np.testing.assert_allclose(local_jacobian(wcs, 0.0, 0.0)[0], [[-0.2, 0.0], [0.0, 0.2]], atol=1e-8)
    x, y = wcs.world_to_pixel_values([30.0, 210.0, np.nan, 0.0], [60.0, -60.0, 0.0, 95.0])
    assert (x[0], y[0]) == pytest.approx((0, 0), abs=1e-6)
    assert np.isnan(x[1:]).all()
    assert np.isnan(wcs.pixel_to_world_values(np.nan, 1.0)).all()
    position = HighLevelWCSWrapper(wcs).pixel_to_world(0, 0)
    assert position.frame.name == "icrs"


def test_frames_other_than_icrs_are_converted_and_axes_put_in_order():
    fk5 = AstWcs(simple_text(system="FK5")).pixel_to_world_values(0.0, 0.0)
    # FK5 and ICRS differ by some 20 milliarcsec.
    away = np.hypot((fk5[0] - 30.0) * 0.5, fk5[1] - 60.0) * 3600
    assert 1e-3 < away < 0.05
    swapped = AstWcs(simple_text(order="2 1"))
    np.testing.assert_allclose(swapped.pixel_to_world_values(0.0, 0.0), (30.0, 60.0), atol=1e-12)
    np.testing.assert_allclose(swapped.world_to_pixel_values(30.0, 60.0), (0.0, 0.0), atol=1e-6)
    radians = swapped.pixel_to_world_radians(np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(np.degrees(np.ravel(radians)), (30.0, 60.0), atol=1e-12)


def test_records_are_bytes_text_or_arrays():
    text = "1 SkyWcs 0 " + simple_text()
    for record in (text, text.encode(), np.frombuffer(text.encode(), dtype=np.uint8)):
        assert AstWcs.from_skywcs(record) == AstWcs(simple_text())


@pytest.mark.parametrize("record", [b"", "2 SkyWcs 0 x", "1 Polygon 0 x", b"\xff\xfe"], ids=str)
def test_what_is_no_skywcs_record_is_refused(record):
    with pytest.raises(WcsError, match=r"a\.fits: not a SkyWcs record of version 1"):
        AstWcs.from_skywcs(record, "a.fits")


def test_broken_and_wrong_dumps_are_refused():
    text = simple_text()
    for broken in ("", "junk", text[: len(text) // 2], " Begin Frame\n Naxes = 2\n End Frame\n"):
        with pytest.raises(WcsError, match=r"a\.fits: the AST dump"):
            AstWcs(broken, "a.fits")
    with pytest.raises(WcsError, match="1-based GRID"):
        AstWcs(simple_text(domain="GRID"))
    frames = Ast.FrameSet(Ast.Frame(2, "Domain=PIXELS"))
    frames.addframe(1, Ast.UnitMap(2), Ast.Frame(2, "Domain=FOCAL"))
    with pytest.raises(MissingWcsError, match="FOCAL"):
        AstWcs(str(frames))
