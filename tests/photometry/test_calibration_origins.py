"""Where the calibration aperture is written: headers, catalogues, configurations, registered defaults."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import QTable

from skygraft.errors import (
    ApertureConflictError,
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    UnknownApertureError,
)
from skygraft.formats import read_calibration
from skygraft.photometry import (
    HEADER_KEYWORDS,
    PhotoCalib,
    aperture_correction_hints,
    config_candidates,
    default_candidate,
    header_candidates,
    origins,
    parse_radius,
    register_default,
    register_header_keyword,
    require_reference,
    resolve_reference,
    schema_candidates,
)

AP = "base_CircularApertureFlux_"


def source_fits(path, aliases, columns=("id",)):
    table = fits.BinTableHDU.from_columns([fits.Column(name, "D") for name in columns])
    for alias in aliases:
        table.header.append(("ALIAS", alias))
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def parquet(path, metadata=None, **columns):
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)
    return path


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "origin"),
    [
        (
            "cfht_849375/SRC-849375-12.fits",
            "slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-849375-12.fits",
        ),
        (
            "cfht_849375/SRC-849375-12.parq",
            "slot_CalibFlux_flux = base_CircularApertureFlux_12_0_flux in SRC-849375-12.parq",
        ),
        (
            "afw/afw/sourceCatalog-hsc-v2.fits",
            "slot_CalibFlux -> base_CircularApertureFlux_12_0 in sourceCatalog-hsc-v2.fits",
        ),
    ],
)
def test_real_source_catalogues(data_dir, name, origin):
    (candidate,) = schema_candidates(data_dir / name)
    assert (candidate.kind, candidate.radius_pixels, candidate.level) == ("aperture", 12.0, "schema")
    assert candidate.origin == origin


@pytest.mark.data
def test_real_catalogues_that_do_not_say(data_dir):
    # 12 and 17 pixels, and nothing that says which
    assert schema_candidates(data_dir / "cfht_849375" / "sourceTable-849375-12.parq") == []
    # No slot_CalibFlux alias
    assert schema_candidates(data_dir / "afw" / "obs_base" / "source_catalog.fits") == []


def test_slot_of_a_fits_catalogue(tmp_path):
    path = source_fits(tmp_path / "a.fits", [f"slot_ApFlux:{AP}17_0", f"slot_CalibFlux:{AP}35_0"])
    (candidate,) = schema_candidates(path)
    assert (candidate.radius_pixels, candidate.origin) == (35.0, f"slot_CalibFlux -> {AP}35_0 in a.fits")
    path = source_fits(tmp_path / "b.fits", ["slot_CalibFlux:mine", f"mine:{AP}4_5"])
    assert schema_candidates(path)[0].radius_pixels == 4.5
    path = source_fits(tmp_path / "c.fits", ["slot_CalibFlux:base_PsfFlux"])
    assert schema_candidates(path)[0].kind == "psf_model"
    path = source_fits(tmp_path / "d.fits", ["slot_CalibFlux:base_GaussianFlux"])
    assert schema_candidates(path) == []
    path = source_fits(tmp_path / "e.fits", ["slot_CalibFlux:x", "x:slot_CalibFlux"])
    assert schema_candidates(path) == []


def test_normalised_tophat(tmp_path):
    slot = ["slot_CalibFlux:base_NormalizedCompensatedTophatFlux"]
    (candidate,) = schema_candidates(source_fits(tmp_path / "a.fits", slot))
    assert candidate.radius_pixels == 12.0
    assert "normalised to base_CircularApertureFlux_12_0" in candidate.origin
    # LATISS: its raw radius is in the name of the raw flux
    path = source_fits(
        tmp_path / "b.fits", slot, ["base_CompensatedTophatFlux_35_instFlux", "base_NormalizedCompensatedTophatFlux_2"]
    )
    assert schema_candidates(path)[0].radius_pixels == 35.0
    path = parquet(tmp_path / "c.parquet", normCompTophatFlux_instFlux=[1.0], apFlux_17_0_instFlux=[2.0])
    assert schema_candidates(path)[0].radius_pixels == 12.0


RAW = ["base_CompensatedTophatFlux_12_instFlux", "base_CompensatedTophatFlux_17_instFlux"]
NORMALISED = "base_NormalizedCompensatedTophatFlux"
SLOT_OF_IT = [f"slot_CalibFlux:{NORMALISED}"]


def documented(path, doc, columns=RAW, keyword="TDOC", aliases=SLOT_OF_IT):
    """A source catalogue whose normalised flux says what it was made from, as afw (TDOC) or astropy (TCOMM) writes."""
    source_fits(path, aliases, [*columns, f"{NORMALISED}_instFlux", f"{NORMALISED}_instFluxErr"])
    if doc is not None:
        with fits.open(path, mode="update") as hdus:
            for n, what in ((len(columns) + 1, doc), (len(columns) + 2, doc.replace("flux", "flux error"))):
                hdus[1].header[f"{keyword}{n}"] = what
    return path


@pytest.mark.parametrize("keyword", ["TDOC", "TCOMM"])
@pytest.mark.parametrize("radius", [12, 17, 35])
def test_of_two_raw_tophats_the_documentation_names_the_one(tmp_path, radius, keyword):
    doc = f"Normalized calibration flux from base_CompensatedTophatFlux_{radius}."
    path = documented(tmp_path / "a.fits", doc, [*RAW, "base_CompensatedTophatFlux_35_instFlux"], keyword)
    (candidate,) = schema_candidates(path)
    assert (candidate.radius_pixels, candidate.level) == (radius, "schema")
    # By the column alone, without the alias: a table that was copied by other software.
    path = documented(tmp_path / "b.fits", doc, RAW, keyword, aliases=())
    assert schema_candidates(path)[0].radius_pixels == radius


@pytest.mark.parametrize("doc", [None, "Normalized calibration flux from the usual tophat."])
@pytest.mark.parametrize("aliases", [SLOT_OF_IT, ()])
@pytest.mark.parametrize("more", [[], [f"{AP}12_0_instFlux"], ["apFlux_17_0_instFlux"]])
def test_of_two_raw_tophats_none_is_guessed(tmp_path, doc, aliases, more):
    path = documented(tmp_path / "a.fits", doc, [*RAW, *more], aliases=aliases)
    with pytest.raises(ApertureConflictError, match=r"Flux_12_instFlux.*Flux_17_instFlux") as caught:
        schema_candidates(path)
    assert caught.value.path == str(path)
    (candidate,) = schema_candidates(path, keep_unclear=True)
    assert candidate.kind == "unclear"


def test_parquet_documents_it_too(tmp_path):
    doc = "Normalized calibration flux from base_CompensatedTophatFlux_17."
    columns = {name: [1.0] for name in (*RAW, f"{NORMALISED}_instFlux")}
    # In the metadata of the field,
    fields = [
        pa.field(n, pa.float64(), metadata={"description": doc} if n.startswith(NORMALISED) else None) for n in columns
    ]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), tmp_path / "a.parq")
    assert schema_candidates(tmp_path / "a.parq")[0].radius_pixels == 17.0
    # in the header of astropy's tables, as the Butler writes them,
    table = QTable(columns)
    table[f"{NORMALISED}_instFlux"].unit = "nJy"
    table[f"{NORMALISED}_instFlux"].info.description = doc
    table.write(tmp_path / "b.parq", format="parquet")
    assert schema_candidates(tmp_path / "b.parq")[0].radius_pixels == 17.0
    # or nowhere.
    for name, raw in (("c", RAW), ("d", ["ctFlux", *RAW])):
        path = parquet(tmp_path / f"{name}.parq", normCompTophatFlux_instFlux=[1.0], **{n: [1.0] for n in raw})
        with pytest.raises(ApertureConflictError, match=r"Flux_12_instFlux.*Flux_17_instFlux"):
            schema_candidates(path)
    metadata = {"alias": f"{{'slot_CalibFlux': '{AP}17_0'}}", "more": f"{{'slot_CalibFlux': '{AP}12_0'}}"}
    with pytest.raises(ApertureConflictError, match=rf"{AP}12_0, {AP}17_0"):
        schema_candidates(parquet(tmp_path / "e.parq", metadata, ap12Flux=[1.0]))


def test_without_a_raw_tophat_the_habit_of_the_pipelines_is_a_default_only(tmp_path):
    (habit,) = schema_candidates(source_fits(tmp_path / "a.fits", SLOT_OF_IT))
    assert (habit.radius_pixels, habit.level) == (12.0, "default")
    # LATISS normalises to 35 pixels: the two disagree, and are both named.
    with pytest.raises(ApertureConflictError, match="35 pix"):
        resolve_reference([habit, default_candidate("LATISS")], pixel_scale=0.1)
    assert resolve_reference([habit, default_candidate("LSSTCam")], pixel_scale=0.2)[0].radius_pixels == 12.0


def test_what_is_not_understood_keeps_defaults_from_deciding(tmp_path):
    path = source_fits(tmp_path / "a.fits", ["slot_CalibFlux:base_GaussianFlux"])
    (unclear,) = schema_candidates(path, keep_unclear=True)
    default, said = default_candidate("HSC"), parse_radius("17 pix")
    assert resolve_reference([unclear, default], pixel_scale=0.168) == (None, "")
    assert resolve_reference([unclear, default, said], pixel_scale=0.168)[0].radius_pixels == 17.0
    calib = PhotoCalib.from_zeropoint(27.0, candidates=(unclear, default))
    with pytest.raises(UnknownApertureError, match=r"base_GaussianFlux in a\.fits, which names no radius"):
        require_reference(calib)


@pytest.mark.data
def test_an_image_whose_slot_is_not_understood_is_not_calibrated_by_default(data_dir, tmp_path):
    for name in ("calexp-849375-12.fits.fz", "SRC-849375-12.fits"):
        shutil.copy(data_dir / "cfht_849375" / name, tmp_path / name)
    with fits.open(tmp_path / "SRC-849375-12.fits", mode="update") as hdus:
        for card in hdus[1].header.cards:
            if card.keyword == "ALIAS" and str(card.value).startswith("slot_CalibFlux:"):
                card.value = "slot_CalibFlux:base_GaussianFlux"
    image = tmp_path / "calexp-849375-12.fits.fz"
    calib = read_calibration(image).photo_calib
    with pytest.raises(UnknownApertureError, match=r"base_GaussianFlux in SRC-849375-12\.fits"):
        require_reference(calib)
    assert read_calibration(image, aperture="17 pix").photo_calib.aperture.radius_pixels == 17.0


def test_a_configuration_names_the_raw_tophat(tmp_path):
    path = tmp_path / "calibrateImage.py"
    slot = f"config.star_measurement.slots.calibFlux='{NORMALISED}'\n"
    raw = "config.star_normalized_calibration_flux.raw_calibflux_name='base_CompensatedTophatFlux_{}'\n"
    path.write_text(slot + raw.format(35))
    assert config_candidates(path)[0].radius_pixels == 35.0
    path.write_text(slot + raw.format(35) + raw.format(12))
    with pytest.raises(ApertureConflictError, match=r"Flux_12.*Flux_35"):
        config_candidates(path)


def test_parquet_catalogues(tmp_path):
    both = {"ap12Flux": [1.0], "ap17Flux": [2.0]}
    assert schema_candidates(parquet(tmp_path / "none.parq", **both)) == []
    (candidate,) = schema_candidates(parquet(tmp_path / "one.parq", ap12Flux=[1.0], ap12FluxErr=[0.1]))
    assert (candidate.radius_pixels, candidate.origin) == (12.0, "column ap12Flux in one.parq")
    metadata = {"alias": f'{{"slot_CalibFlux": "{AP}17_0", "slot_ApFlux": "{AP}12_0"}}'}
    (candidate,) = schema_candidates(parquet(tmp_path / "meta.parq", metadata, **both))
    assert (candidate.radius_pixels, candidate.origin) == (17.0, f"slot_CalibFlux -> {AP}17_0 in meta.parq")


def test_a_copied_column_is_recognised_by_its_values(tmp_path):
    rng = np.random.default_rng(0)
    twelve, seventeen = rng.normal(size=(2, 20))
    twelve[3] = np.nan
    columns = {f"{AP}12_0_instFlux": twelve, f"{AP}17_0_instFlux": seventeen}
    path = parquet(tmp_path / "a.parq", slot_CalibFlux_instFlux=seventeen, **columns)
    assert schema_candidates(path)[0].radius_pixels == 17.0
    path = parquet(tmp_path / "b.parq", calibFlux=twelve, ap12Flux=twelve, ap17Flux=seventeen)
    assert schema_candidates(path)[0].radius_pixels == 12.0
    # Equal to neither, or to both, or to nothing that can be compared: it does not say
    path = parquet(tmp_path / "c.parq", slot_CalibFlux_instFlux=twelve + 1, **columns)
    assert schema_candidates(path) == []
    path = parquet(tmp_path / "d.parq", calibFlux=twelve, ap12Flux=twelve, ap17Flux=twelve)
    assert schema_candidates(path) == []
    path = parquet(tmp_path / "e.parq", calibFlux=twelve * np.nan, ap12Flux=twelve * np.nan)
    assert schema_candidates(path) == []


def test_broken_catalogues(tmp_path):
    path = tmp_path / "x.fits"
    with pytest.raises(CorruptFileError, match=r"x\.fits"):
        schema_candidates(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="empty"):
        schema_candidates(path)
    path.write_text("id,flux\n1,2\n")
    with pytest.raises(FormatError, match="neither"):
        schema_candidates(path)
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(CorruptFileError, match="cannot be read"):
        schema_candidates(path)


def header(*cards):
    made = fits.Header()
    for card in cards:
        made.append(card)
    return made


@pytest.mark.parametrize(
    ("cards", "kind", "pixels", "arcsec"),
    [
        ([("CALAPRAD", 12.0)], "aperture", 12.0, None),
        ([("CALAPRAS", 2.0)], "aperture", None, 2.0),
        ([("HIERARCH CALIB APERTURE RADIUS PIX", 12)], "aperture", 12.0, None),
        ([("HIERARCH SKYGRAFT CALIB APERTURE RADIUS ARCSEC", 2)], "aperture", None, 2.0),
        ([("CALAPREF", "psf_model")], "psf_model", None, None),
        ([("CALAPREF", "TOTAL")], "total", None, None),
        ([("PHOTAPER", 24)], "aperture", 12.0, None),
        ([("PHOTAPER", 4.0, "[arcsec] diameter")], "aperture", None, 2.0),
        ([("PHOTAPER", "24")], "aperture", 12.0, None),
    ],
)
def test_header_keywords(cards, kind, pixels, arcsec):
    (candidate,) = header_candidates(header(*cards), "a/image.fits", 1)
    got = (candidate.kind, candidate.radius_pixels, candidate.radius_arcsec, candidate.level)
    assert got == (kind, pixels, arcsec, "header")
    assert candidate.origin.endswith("in image.fits[1]") or "diameter" in candidate.origin


def test_header_origins_and_absence():
    made = header(("PHOTAPER", 24), ("CALAPRAD", 12.0), ("APRADIUS", 9))
    origins_found = [c.origin for c in header_candidates(made, "image.fits", 0)]
    assert origins_found == [
        "CALAPRAD = 12.0 in image.fits",
        "PHOTAPER = 24 in image.fits, a diameter in pix: radius 12 pix",
    ]
    assert header_candidates(header(("GAIN", 1.0))) == []
    assert header_candidates(header(("CALAPRAD", None), ("CALAPREF", " "))) == []
    assert header_candidates({"CALAPRAD": 12})[0].radius_pixels == 12.0
    # Several apertures were measured; which of them was the calibration's is not said
    assert header_candidates(header(("PHOTAPER", "5, 10, 24"))) == []


@pytest.mark.parametrize(
    "card", [("CALAPRAD", "big"), ("CALAPRAD", -1.0), ("CALAPRAD", True), ("CALAPRAD", "1 2"), ("CALAPREF", "psf2")]
)
def test_broken_header_values(card):
    with pytest.raises(CalibrationError, match=rf"image\.fits.*{card[0]}"):
        header_candidates(header(card), "image.fits")


def test_registering_a_keyword(monkeypatch):
    monkeypatch.setattr("skygraft.photometry.header_keys.HEADER_KEYWORDS", dict(HEADER_KEYWORDS))
    before = dict(HEADER_KEYWORDS)
    with pytest.raises(ConfigError):
        register_header_keyword("MYDIAM", "inch")
    register_header_keyword("mydiam", "arcsec", diameter=True)
    assert header_candidates({"MYDIAM": 4.0})[0].radius_arcsec == 2.0
    assert before == HEADER_KEYWORDS


def test_configurations_are_read_not_run(tmp_path):
    path = tmp_path / "calibrateImage.py"
    path.write_text(
        "raise SystemExit\n"
        "config.measurement.slots.calibFlux='base_CircularApertureFlux_17_0'\n"
        "config.star_measurement.slots.calibFlux = 'base_CircularApertureFlux_12_0'\n"
        '# config.instFluxField="apFlux_9_0_instFlux"\n'
        'config.instFluxField="apFlux_35_0_instFlux"\n'
    )
    slot, fgcm = config_candidates(path)
    assert (slot.radius_pixels, slot.level) == (12.0, "schema")
    assert (fgcm.radius_pixels, fgcm.level) == (35.0, "fgcm")
    assert fgcm.origin == "FGCM instFluxField = apFlux_35_0_instFlux in calibrateImage.py"
    with pytest.raises(CorruptFileError):
        config_candidates(tmp_path / "absent.py")


def test_hints():
    keys = [
        "base_PsfFlux_instFlux",
        "base_CompensatedTophatFlux_12_instFlux",
        "base_CompensatedTophatFlux_12_instFluxErr",
    ]
    (hint,) = aperture_correction_hints(keys, "visit.fits")
    assert (hint.radius_pixels, hint.level) == (12.0, "hint")
    assert hint.origin == "base_CompensatedTophatFlux_12_instFlux in visit.fits"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HSC", "12 pix"),
        ("hyper suprime-cam", "12 pix"),
        ("LSSTCam", "12 pix"),
        ("LSSTComCam", "12 pix"),
        ("LATISS", "35 pix"),
        ("MegaPrime", "12 pix"),
        ("Legacy Surveys", "psf_model"),
    ],
)
def test_defaults(name, value):
    candidate = default_candidate(name)
    assert (candidate.value, candidate.level) == (value, "default")
    assert "default" in candidate.origin


def test_registering_a_default(monkeypatch):
    monkeypatch.setattr(origins, "_DEFAULTS", dict(origins._DEFAULTS))
    assert default_candidate("VIRCAM") is None
    assert default_candidate(None) is None
    register_default("VIRCAM", {"diameter": "2 arcsec"})
    candidate = default_candidate("Vircam")
    assert (candidate.radius_arcsec, candidate.origin) == (1.0, "registered default of VIRCAM")
    with pytest.raises(ConfigError):
        register_default("VIRCAM", 12)
