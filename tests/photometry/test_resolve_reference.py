"""One reference out of many candidates, or an error that says what to do."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.errors import (
    ApertureConflictError,
    CalibrationError,
    ConfigError,
    UncalibratedImageError,
    UnknownApertureError,
)
from skygraft.photometry import (
    PSF_MODEL,
    RADIUS_TOLERANCE,
    TOTAL,
    CalibrationAperture,
    PhotoCalib,
    ReferenceCandidate,
    aperture_correction_hints,
    default_candidate,
    describe_reference,
    parse_radius,
    recorded_unit,
    require_reference,
    resolve_reference,
)

SLOT = "slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-849375-12.fits"
SCHEMA = ReferenceCandidate("aperture", 12.0, origin=SLOT, level="schema")
FGCM = ReferenceCandidate("aperture", 12.0, origin="FGCM instFluxField", level="fgcm")
HEADER = ReferenceCandidate("aperture", radius_arcsec=2.016, origin="CALAPRAS", level="header")
PSF = ReferenceCandidate("psf_model", origin="CALAPREF", level="header")


def test_the_most_specific_is_named():
    default = default_candidate("HSC")
    reference, origin = resolve_reference([default, FGCM, SCHEMA], pixel_scale=0.185)
    assert reference == CalibrationAperture(12.0, 12 * 0.185, SLOT)
    assert origin == SLOT
    assert str(reference) == f"12 pix = 2.22 arcsec ({SLOT})"
    explicit = parse_radius("12 pix", origin="campaign.yaml")
    for order in itertools.permutations([default, FGCM, SCHEMA, explicit]):
        assert resolve_reference(order, pixel_scale=0.185)[1] == "campaign.yaml"


def test_defaults_only_where_nothing_else_is_found():
    latiss = default_candidate("LATISS")
    assert resolve_reference([latiss], pixel_scale=0.1)[0].radius_pixels == 35.0
    reference, origin = resolve_reference([latiss, SCHEMA], pixel_scale=0.1)
    assert (reference.radius_pixels, origin) == (12.0, SLOT)
    assert resolve_reference([default_candidate("legacy-surveys"), SCHEMA], pixel_scale=0.1)[1] == SLOT
    assert resolve_reference([], pixel_scale=0.2) == (None, "")


def test_pixels_and_arcsec_meet_through_the_local_scale():
    reference, origin = resolve_reference([SCHEMA, HEADER], pixel_scale=0.168)
    assert (reference.radius_pixels, origin) == (pytest.approx(12.0, rel=1e-12), "CALAPRAS")
    # The same two numbers on a camera of another scale are two apertures
    with pytest.raises(ApertureConflictError) as caught:
        resolve_reference([SCHEMA, HEADER], pixel_scale=0.2, path="calexp.fits")
    text = str(caught.value)
    for part in ("calexp.fits", SLOT, "CALAPRAS", "12 pix = 2.4 arcsec", "10.08 pix = 2.016 arcsec"):
        assert part in text


@given(
    radius=st.floats(2, 50),
    scale=st.floats(0.05, 2),
    off=st.floats(-0.03, 0.03).filter(lambda v: abs(abs(v) - RADIUS_TOLERANCE) > 2e-4),
)
@settings(deadline=None)
def test_tolerance(radius, scale, off):
    pair = [
        ReferenceCandidate("aperture", radius, origin="a", level="schema"),
        ReferenceCandidate("aperture", radius_arcsec=radius * scale * (1 + off), origin="b", level="fgcm"),
    ]
    if abs(off) < RADIUS_TOLERANCE:
        assert resolve_reference(pair, pixel_scale=scale)[1] == "a"
    else:
        with pytest.raises(ApertureConflictError):
            resolve_reference(pair, pixel_scale=scale)


def test_rounded_and_doubled_values_are_recognised():
    # HSC's 12 pixels are 2.016 arcsec; "4 arcsec" is a diameter
    with pytest.raises(ApertureConflictError, match=r"differ by 0\.8 %.*rounded"):
        resolve_reference([parse_radius("2 arcsec"), SCHEMA], pixel_scale=0.168)
    with pytest.raises(ApertureConflictError, match=r"twice the other.*diameter"):
        resolve_reference([parse_radius("4.03 arcsec"), SCHEMA], pixel_scale=0.168)
    assert resolve_reference([parse_radius({"diameter": "4.03 arcsec"}), SCHEMA], pixel_scale=0.168)[0] is not None


@pytest.mark.parametrize(
    "pair",
    [
        (parse_radius("17 pix", origin="the setting"), SCHEMA),
        (PSF, SCHEMA),
        (parse_radius("total", origin="the setting"), PSF),
        (SCHEMA, ReferenceCandidate("aperture", 35.0, origin="another", level="schema")),
    ],
)
def test_disagreement_names_both_and_survives_a_worker(pair):
    for order in (pair, pair[::-1]):
        with pytest.raises(ApertureConflictError) as caught:
            resolve_reference(order, pixel_scale=0.2)
        for candidate in pair:
            assert candidate.origin in str(caught.value)
        assert caught.value.fix
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_any_disagreeing_one_is_found():
    odd = ReferenceCandidate("aperture", 17.0, origin="odd", level="fgcm")
    for order in itertools.permutations([SCHEMA, HEADER, odd]):
        with pytest.raises(ApertureConflictError, match="odd"):
            resolve_reference(order, pixel_scale=0.168)


def test_models():
    assert resolve_reference([PSF], pixel_scale=None) == (PSF_MODEL, "CALAPREF")
    assert resolve_reference([parse_radius("total")], pixel_scale=None)[0] is TOTAL


def test_the_pixel_scale_matters_only_where_needed():
    assert resolve_reference([SCHEMA], pixel_scale=None)[0] == CalibrationAperture(12.0, None, SLOT)
    with pytest.raises(CalibrationError, match="pixel scale is not known"):
        resolve_reference([HEADER], pixel_scale=None)
    with pytest.raises(CalibrationError, match="positive"):
        resolve_reference([SCHEMA], pixel_scale=0.0)
    both = ReferenceCandidate("aperture", 12.0, 2.016, origin="both", level="header")
    assert resolve_reference([both], pixel_scale=0.168)[0].radius_arcsec == pytest.approx(2.016)
    with pytest.raises(CalibrationError, match="contradicts itself"):
        resolve_reference([both], pixel_scale=0.2)


def test_required_but_unknown_says_how_to_set_it():
    aperture = CalibrationAperture(12.0)
    assert require_reference(PhotoCalib(1.0, reference=aperture)) is aperture
    hints = aperture_correction_hints(
        ["base_PsfFlux_instFlux", "base_CompensatedTophatFlux_12_instFlux"], "the aperture-correction map"
    )
    assert resolve_reference(hints, pixel_scale=0.2) == (None, "")
    with pytest.raises(UnknownApertureError) as caught:
        require_reference(PhotoCalib(1.0, candidates=tuple(hints)), "visit.fits")
    text = str(caught.value)
    for part in (
        "visit.fits",
        "survey: calibration: {aperture: 12 pix}",
        "--aperture '12 pix'",
        "aperture='12 pix'",
        "base_CompensatedTophatFlux_12_instFlux in the aperture-correction map",
    ):
        assert part in text
    with pytest.raises(UncalibratedImageError, match="zeropoint"):
        require_reference(None, "visit.fits")


@pytest.mark.parametrize(
    ("setting", "kept", "text"),
    [
        ("12 pix", "12 pix", "12 pix = 2.22 arcsec"),
        ("diameter: 24 pix", "12 pix", "12 pix = 2.22 arcsec"),
        ("2 arcsec", "2 arcsec", "2 arcsec = 10.811 pix"),
        ({"diameter": "4 arcsec"}, "2 arcsec", "2 arcsec = 10.811 pix"),
        ("0.05 arcmin", "3 arcsec", "3 arcsec = 16.216 pix"),
        ("2.22 arcsec", "2.22 arcsec", "2.22 arcsec = 12 pix"),  # a round number of pixels, and not given so
    ],
)
def test_an_aperture_remembers_the_unit_in_which_it_was_given(setting, kept, text):
    aperture, _ = resolve_reference([parse_radius(setting)], pixel_scale=0.185)
    assert aperture.given == kept
    assert str(aperture) == f"{text} ({aperture.origin})"
    again = pickle.loads(pickle.dumps(aperture))
    assert again == aperture
    # Taken over to an image of another pixel scale, it is the same setting: not what it was in the other unit.
    moved, _ = resolve_reference([parse_radius(kept)], pixel_scale=0.2)
    assert moved.given == kept
    if aperture.unit == "arcsec":
        assert resolve_reference([parse_radius(aperture)], pixel_scale=0.2)[0] == dataclasses.replace(
            moved, origin=aperture.origin
        )


def test_what_disagrees_with_itself_keeps_the_unit_of_pixels():
    both = ReferenceCandidate("aperture", 12.0, 2.016, origin="both", level="header")
    assert resolve_reference([both], pixel_scale=0.168)[0].unit == "pix"


@pytest.mark.parametrize(("unit", "arcsec"), [("arcsec", None), ("arcmin", 2.0), ("", 2.0)])
def test_the_unit_is_one_of_two_and_has_a_radius(unit, arcsec):
    with pytest.raises(ConfigError, match="unit"):
        CalibrationAperture(12.0, arcsec, unit=unit)


@pytest.mark.parametrize("scale", [0.168, 0.185, 0.2, 0.2637, 0.1853123456789])
@pytest.mark.parametrize("setting", ["12 pix", "2 arcsec", "35 pix", "4.5 pix", "1.75 arcsec", "7.0123 pix"])
def test_the_unit_is_read_back_from_a_record(setting, scale):
    aperture, _ = resolve_reference([parse_radius(setting)], pixel_scale=scale)
    record = json.loads(json.dumps(describe_reference(aperture)))
    assert set(record) == {"kind", "radius_pixels", "radius_arcsec", "origin"}
    unit = recorded_unit(record["radius_pixels"], record["radius_arcsec"])
    # What has few digits in both units at once can be read either way.
    both = aperture.unit == "arcsec" and float(f"{aperture.radius_pixels:.6g}") == pytest.approx(
        aperture.radius_pixels, rel=1e-12
    )
    assert unit == ("pix" if both else aperture.unit)


def test_a_recorded_radius_of_many_digits_has_no_unit():
    assert recorded_unit(11.9047619047, 2.0000001234) is None
    assert recorded_unit(None, None) is None
