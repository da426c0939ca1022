"""Units of pixels, however they are spelled; astropy gives the scales."""

from __future__ import annotations

import math

import pytest
from astropy import units as u

from skygraft.photometry import canonical_unit, parse_unit, summed_unit


@pytest.mark.parametrize(
    ("text", "kind", "per_second"),
    [
        ("", "counts", False), ("ADU", "counts", False), ("DN", "counts", False), ("counts / s", "counts", True),
        ("ADU s-1", "counts", True), ("adu*s^-1", "counts", True), ("CPS", "counts", True), ("ct/sec", "counts", True),
        ("counts per second", "counts", True), ("adu/s/pixel", "counts", True), ("DN.s**-1", "counts", True),
        ("e-", "electrons", False), ("ELECTRONS/S", "electrons", True), ("photo-electrons/sec", "electrons", True),
        ("electron.s-1", "electrons", True), ("e/s", "electrons", True), ("(e-)/s", "electrons", True),
        ("NANOMAGGIES", "flux", False), ("nmgy", "flux", False), ("uJy", "flux", False), ("JY", "flux", False),
        ("Jy/pixel", "flux", False), ("erg/s/cm2/Angstrom", "flux", False), ("10^-17 erg/s/cm2/Ang", "flux", False),
        ("W m-2 Hz-1", "flux", False), ("MJY/SR", "surface brightness", False),
        ("Jy/beam", "surface brightness", False),
        ("mag / arcsec**2", "surface brightness", False), ("nJy**2", "variance", False), ("adu2", "variance", False),
        ("1/(nanomaggy^2)", "inverse variance", False), ("mag", "magnitude", False),
        ("photon", "other", False), ("furlong", "other", False), ("unknown", "other", False), ("s", "other", False),
    ],
)  # fmt: skip
def test_what_a_unit_is(text: str, kind: str, per_second: bool) -> None:
    found = parse_unit(text)
    assert (found.kind, found.per_second) == (kind, per_second)


@pytest.mark.parametrize("text", ["nJy", "uJy", "mJy", "Jy", "kJy", "W m-2 Hz-1", "erg s-1 cm-2 Hz-1"])
def test_scale_of_a_flux_density(text: str) -> None:
    assert parse_unit(text).scale == pytest.approx(u.Unit(text).to(u.nJy), rel=1e-12)


@pytest.mark.parametrize("text", ["MJy/sr", "Jy/arcsec2", "uJy / arcsec**2", "mJy/sr"])
def test_scale_of_a_surface_brightness(text: str) -> None:
    assert parse_unit(text).scale == pytest.approx(u.Unit(text).to(u.nJy / u.sr), rel=1e-12)


def test_scales_of_counts_and_what_has_none() -> None:
    assert parse_unit("10 adu").scale == 10 and parse_unit("10**3 electron/s").scale == 1000
    for text in ("Jy/beam", "erg/s/cm2/Angstrom", "furlong", "mag"):
        assert math.isnan(parse_unit(text).scale)


def test_the_unit_of_a_sum_is_a_label_of_its_own() -> None:
    label = summed_unit("MJy/sr")
    assert canonical_unit(label) == label == summed_unit(label)
    assert summed_unit("adu") == "adu"
