"""Radii as people and field names write them."""

from __future__ import annotations

import astropy.units as u
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import ConfigError
from skygraft.photometry import (
    PSF_MODEL,
    TOTAL,
    CalibrationAperture,
    ReferenceCandidate,
    field_name_candidate,
    parse_field_radius,
    parse_radius,
)

UNITS = {"pix": ("pixels", 1.0), "pixels": ("pixels", 1.0), "px": ("pixels", 1.0), "arcsec": ("arcsec", 1.0)}
UNITS |= {'"': ("arcsec", 1.0), "arcmin": ("arcsec", 60.0), "mas": ("arcsec", 0.001)}


def radii(candidate):
    return candidate.radius_pixels, candidate.radius_arcsec


def approx(pair, **kwargs):
    return tuple(None if v is None else pytest.approx(v, **kwargs) for v in pair)


@pytest.mark.parametrize(
    ("setting", "pixels", "arcsec"),
    [
        ("12 pix", 12.0, None),
        ("12pix", 12.0, None),
        ("  12.5  Pixels ", 12.5, None),
        ("1e1 px", 10.0, None),
        (".5 pix", 0.5, None),
        ("2 arcsec", None, 2.0),
        ('2"', None, 2.0),
        ("2''", None, 2.0),
        ("0.05 arcmin", None, 3.0),
        ({"radius": "12 pix"}, 12.0, None),
        ({"diameter": "4 arcsec"}, None, 2.0),
        ({"diameter": "24 pix"}, 12.0, None),
        ("diameter: 4 arcsec", None, 2.0),
        ("diameter=24 pix", 12.0, None),
        ("radius 12 pix", 12.0, None),
        (12 * u.pix, 12.0, None),
        (2 * u.arcsec, None, 2.0),
        ({"diameter": 0.05 * u.arcmin}, None, 1.5),
        (CalibrationAperture(12.0, 2.016), 12.0, 2.016),
        (CalibrationAperture(11.905, 2.0, unit="arcsec"), None, 2.0),
    ],
)
def test_what_people_write(setting, pixels, arcsec):
    candidate = parse_radius(setting)
    assert candidate.kind == "aperture"
    assert candidate.level == "explicit"
    assert radii(candidate) == approx((pixels, arcsec), rel=1e-14)


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("psf_model", "psf_model"),
        ("PSF_MODEL", "psf_model"),
        (PSF_MODEL, "psf_model"),
        ("total", "total"),
        (TOTAL, "total"),
    ],
)
def test_references_without_a_radius(setting, kind):
    candidate = parse_radius(setting, origin="--aperture")
    assert (candidate.kind, candidate.origin, *radii(candidate)) == (kind, "--aperture", None, None)


@pytest.mark.parametrize("setting", [12, 12.0, "12", " 2.0 ", {"radius": 12}, {"diameter": "4"}])
def test_bare_numbers_are_refused_with_the_reason(setting):
    with pytest.raises(ConfigError, match=r"radius or a diameter, in pixels or in arcsec.*'12 pix'"):
        parse_radius(setting)


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "twelve pix",
        "12 parsec",
        "12 pix 3",
        "0 pix",
        "-3 pix",
        "nan pix",
        "psf",
        None,
        True,
        {},
        {"radius": "1 pix", "diameter": "2 pix"},
        {"size": "1 pix"},
        [12],
        12 * u.m,
        [1, 2] * u.pix,
        0 * u.arcsec,
    ],
)
def test_nonsense_is_refused(setting):
    with pytest.raises(ConfigError):
        parse_radius(setting)


def test_a_halved_diameter_says_so():
    assert parse_radius("diameter: 4 arcsec", origin="aperture").origin == "aperture, half of the diameter 4 arcsec"


@given(value=st.floats(1e-3, 1e4), unit=st.sampled_from(sorted(UNITS)), space=st.sampled_from(["", " ", "  "]))
@settings(deadline=None)
def test_radius_round_trip(value, unit, space):
    field, factor = UNITS[unit]
    want = (value * factor, None) if field == "pixels" else (None, value * factor)
    assert radii(parse_radius(f"{value!r}{space}{unit}")) == want
    halved = tuple(None if v is None else v / 2 for v in want)
    assert radii(parse_radius({"diameter": f"{value!r}{space}{unit}"})) == halved
    # What a candidate prints is read back as the same
    short = parse_radius(f"{value:.6g} {unit}")
    assert radii(parse_radius(short.value)) == approx(radii(short), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "radius"),
    [
        ("base_CircularApertureFlux_12_0", 12.0),
        ("base_CircularApertureFlux_12_0_instFlux", 12.0),
        ("base_CircularApertureFlux_4_5_instFluxErr", 4.5),
        ("base_CircularApertureFlux_12_0_flag_apertureTruncated", 12.0),
        ("_12_0_", None),
        ("ApFlux_4_5_flag", 4.5),
        ("apFlux_35_0_instFlux", 35.0),
        ("apFlux_12_0_instFlux", 12.0),
        ("slot_ApFlux_12_0", 12.0),
        ("ap12Flux", 12.0),
        ("ap03Flux", 3.0),
        ("r_ap12FluxErr", 12.0),
        ("base_CompensatedTophatFlux_12", 12.0),
        ("base_CompensatedTophatFlux_35_instFlux", 35.0),
        ("base_NormalizedCompensatedTophatFlux_instFlux", None),
        ("base_PsfFlux_instFlux", None),
        ("psfFlux", None),
        ("base_GaussianFlux", None),
        ("modelfit_CModel_instFlux", None),
        ("base_SdssShape_instFlux_xx_Cov", None),
        ("overlap12Flux", None),
        ("slot_ApFlux", None),
        ("ext_gaap_GaapFlux_1_15x_2_5_instFlux", None),
        ("ext_gaap_GaapFlux_2_0_instFluxErr", None),
    ],
)
def test_radius_in_a_field_name(name, radius):
    assert parse_field_radius(name) == radius


@given(
    tenths=st.integers(1, 9999),
    before=st.sampled_from(["base_CircularApertureFlux", "apFlux", "meas_i_base_CircularApertureFlux", "ApFlux"]),
    after=st.sampled_from(["", "_instFlux", "_flag", "_instFluxErr"]),
)
@settings(deadline=None)
def test_digits_tenths_round_trip(tenths, before, after):
    # LSST's own naming: "%.1f" with the point replaced
    name = f"{before}_{tenths / 10:.1f}".replace(".", "_") + after
    assert parse_field_radius(name) == tenths / 10


@given(radius=st.integers(1, 99), after=st.sampled_from(["", "Err", "_flag"]))
@settings(deadline=None)
def test_whole_pixels_round_trip(radius, after):
    assert parse_field_radius(f"ap{radius:02d}Flux{after}") == radius
    assert parse_field_radius(f"base_CompensatedTophatFlux_{radius}_instFlux") == radius


def test_field_names_as_candidates():
    candidate = field_name_candidate("apFlux_35_0_instFlux", "FGCM instFluxField")
    assert candidate == ReferenceCandidate("aperture", 35.0, origin="FGCM instFluxField", level="fgcm")
    candidate = field_name_candidate("base_PsfFlux", "slot", level="schema")
    assert (candidate.kind, candidate.level) == ("psf_model", "schema")
    for name in ("normCompTophatFlux_instFlux", "base_NormalizedCompensatedTophatFlux"):
        candidate = field_name_candidate(name, "slot")
        assert candidate.radius_pixels == 12.0
        assert candidate.origin == "slot (normalised to base_CircularApertureFlux_12_0)"
        assert field_name_candidate(name, "slot", tophat_radius=35.0).radius_pixels == 35.0
    assert field_name_candidate("base_GaussianFlux", "slot") is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "aperture"},
        {"kind": "total", "radius_pixels": 3.0},
        {"kind": "aperture", "radius_pixels": -3.0},
        {"kind": "disc", "radius_pixels": 3.0},
        {"kind": "total", "level": "rumour"},
    ],
)
def test_candidates_make_sense(arguments):
    with pytest.raises(ConfigError):
        ReferenceCandidate(**arguments)
