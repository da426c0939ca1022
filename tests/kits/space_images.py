"""Small images of JWST, Roman and HST, written by astropy, asdf and gwcs with the cards and keys of real ones."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

SIZE = 96
RA, DEC = 150.1, 2.2
SCALE = 0.063
"""Arcsec per pixel of the images of JWST."""
AREA = (SCALE / 3600 * math.pi / 180) ** 2
"""Steradians of a pixel."""
PHOTONS = 200.0
"""Electrons per image unit of the images of JWST and Roman."""
PSF = {"kind": "gaussian", "fwhm": "3 pix"}


def stars(seed: int = 1, sky: float = 0.3, size: int = SIZE) -> np.ndarray:
    """Sky, noise and stars."""
    rng = np.random.default_rng(seed)
    image = rng.normal(sky, 0.02, (size, size))
    y, x = np.mgrid[:size, :size]
    for _ in range(30):
        x0, y0 = rng.uniform(5, size - 5, 2)
        image += rng.uniform(5, 50) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 1.5**2))
    return image.astype(np.float32)


def pipeline(*, distorted: bool, scale: float = SCALE, size: int = SIZE, inverse: bool = True) -> Any:
    """A gwcs from pixels to ICRS; distorted by up to some pixels at the corners."""
    import gwcs
    from astropy import coordinates, units
    from astropy.modeling import models
    from gwcs import coordinate_frames

    x, y = (models.Polynomial2D(3, **{c: 1.0}) for c in ("c1_0", "c0_1"))
    if distorted:
        x.c2_0, x.c1_1, x.c3_0, y.c0_2, y.c1_1 = 2e-4, -1e-4, 1e-7, 3e-4, 5e-5
    bend = models.Mapping((0, 1, 0, 1)) | (x & y)
    # An inverse as bad as that of real distortion polynomials, or worse.
    bend.inverse = models.Identity(2)
    steps = (models.Shift(-40) & models.Shift(-50)) | bend
    steps = steps | (models.Scale(-scale / 3600) & models.Scale(scale / 3600))
    steps = steps | models.Pix2Sky_TAN() | models.RotateNative2Celestial(RA, DEC, 180)
    if not inverse:
        steps = steps | models.Mapping((0, 1))
    detector = coordinate_frames.Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix, units.pix))
    sky = coordinate_frames.CelestialFrame(
        name="world", reference_frame=coordinates.ICRS(), unit=(units.deg, units.deg)
    )
    made = gwcs.WCS([(detector, steps), (sky, None)])
    made.bounding_box = ((-0.5, size - 0.5), (-0.5, size - 0.5))
    return made


def relative_areas(made: Any, area: float = AREA, size: int = SIZE) -> np.ndarray:
    """Area of each pixel of a gwcs in units of a nominal one, by differences of its own."""
    y, x = np.mgrid[:size, :size].astype(float)
    ra, dec = (np.radians(v) for v in made.forward_transform(x, y))
    (ra_x, dec_x), (ra_y, dec_y) = (
        [np.radians(v) for v in made.forward_transform(x + dx, y + dy)] for dx, dy in ((1, 0), (0, 1))
    )
    cross = (ra_x - ra) * (dec_y - dec) - (ra_y - ra) * (dec_x - dec)
    return (np.abs(cross) * np.cos(dec) / area).astype(np.float32)


# --- JWST

JWST_PRIMARY = {
    "DATE": "2023-06-01T00:00:00.000", "FILENAME": "jw.fits", "DATAMODL": "ImageModel", "TELESCOP": "JWST",
    "CAL_VER": "1.11.4", "PROGRAM": "02736", "OBSERVTN": "001", "VISIT": "001", "VISIT_ID": "02736001001",
    "VISITGRP": "02", "SEQ_ID": "1", "ACT_ID": "05", "EXPOSURE": "00001", "DATE-OBS": "2022-06-07",
    "TIME-OBS": "05:18:31.708", "TIMESYS": "UTC", "INSTRUME": "NIRCAM", "DETECTOR": "NRCALONG", "FILTER": "F444W",
    "PUPIL": "CLEAR", "EXP_TYPE": "NRC_IMAGE", "EXPSTART": 59737.0, "EXPMID": 59737.1, "EXPEND": 59737.2,
    "EFFEXPTM": 418.0, "BMIDTIME": 59737.105, "BARTDELT": 430.0,
}  # fmt: skip
JWST_SCIENCE = {
    "XPOSURE": 400.0, "BUNIT": "MJy/sr", "PHOTMJSR": 0.3925000131130219, "PIXAR_SR": AREA, "PIXAR_A2": SCALE**2,
    "RADESYS": "ICRS",
}  # fmt: skip


def _sip(*, distorted: bool) -> dict[str, Any]:
    """The FITS description of `pipeline`: exact, but for its cubic term, which is up to 0.02 pixels."""
    step = SCALE / 3600
    found = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": RA, "CRVAL2": DEC, "CRPIX1": 41.0, "CRPIX2": 51.0,
        "CD1_1": -step, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": step,
    }  # fmt: skip
    if not distorted:
        return found
    terms = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-4, "A_1_1": -1e-4, "B_0_2": 3e-4, "B_1_1": 5e-5}
    return found | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "SIPMXERR": 0.0176} | terms


def _asdf_hdu(made: Any) -> fits.BinTableHDU:
    """The extension in which the JWST pipeline keeps its metadata, with arrays that are HDUs of the file."""
    import asdf

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile({"meta": {"wcs": made, "telescope": "JWST"}}).write_to(buffer, all_array_storage="inline")
    content = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    column = fits.Column("ASDF_METADATA", f"{content.size}B", array=content[None])
    return fits.BinTableHDU.from_columns([column], name="ASDF")


def write_jwst(path: Path, *, mosaic: bool, asdf: bool = True, **cards: Any) -> Path:
    """Write an ``_i2d`` or a ``_cal`` file; `cards` replace those of the primary header, None removes one."""
    image = stars()
    made = pipeline(distorted=not mosaic)
    variance = {"VAR_POISSON": np.maximum(image, 0) / PHOTONS, "VAR_RNOISE": np.full(image.shape, 4e-4)}
    variance["VAR_FLAT"] = (0.01 * image) ** 2
    planes = {"SCI": image, "ERR": np.sqrt(sum(variance.values()))}
    more = {"WHT": np.full(image.shape, 5.0)} if mosaic else {}
    floats = {k: np.array(v, dtype=np.float32) for k, v in (planes | more | variance).items()}
    if mosaic:
        for key, plane in floats.items():
            plane[:8] = 0 if key == "WHT" else np.nan
    primary = fits.PrimaryHDU()
    primary.header.update(JWST_PRIMARY)
    hdus: list[Any] = [primary]
    for name, plane in floats.items():
        hdu = fits.ImageHDU(plane, name=name)
        if name == "SCI":
            hdu.header.update(JWST_SCIENCE | _sip(distorted=not mosaic))
        hdus.append(hdu)
    if mosaic:
        primary.header.update({"PXSCLRT": 1.0, "PIXFRAC": 1.0, "NDRIZ": 4, "RESWHT": "ivm", "S_RESAMP": "COMPLETE"})
        hdus.insert(3, fits.ImageHDU(np.ones((1, *image.shape), dtype=np.int32), name="CON"))
    else:
        flags = np.zeros(image.shape, dtype=np.uint32)
        flags[3, 4], flags[20, 30] = 1, 2 | 2**4 | 2**31
        hdus.insert(3, fits.ImageHDU(flags, name="DQ"))
        hdus.insert(4, fits.ImageHDU(relative_areas(made), name="AREA"))
    if asdf:
        hdus.append(_asdf_hdu(made))
    for key, value in cards.items():
        header = hdus[1].header if key in JWST_SCIENCE else primary.header
        if value is None:
            del header[key]
        else:
            header[key] = value
    fits.HDUList(hdus).writeto(path)
    return path


# --- Roman


def roman_tree(*, mosaic: bool, tag: str | None = None, **meta: Any) -> dict[str, Any]:
    """The tree of a Roman image of schema version 2; `meta` is merged into its metadata."""
    from asdf.tagged import TaggedDict
    from astropy.time import Time

    image = stars()
    photons = np.maximum(image, 0) / PHOTONS
    content: dict[str, Any] = {
        "telescope": "ROMAN", "model_type": "MosaicModel" if mosaic else "ImageModel", "origin": "STSCI/SOC",
        "instrument": {"name": "WFI", "optical_element": "F158", "detector": "WFI07"},
        "filename": "r0000101001001001001_0001_wfi07_f158_cal.asdf", "prd_version": "?",
        "wcs": pipeline(distorted=not mosaic, scale=0.11),
    }  # fmt: skip
    times = [Time(f"2027-01-01T00:0{minute}:00", scale="utc") for minute in (0, 2, 1)]
    if mosaic:
        content["coadd_info"] = {"time_first": times[0], "time_mean": times[2], "exposure_time": 500.0}
        content["wcsinfo"] = {"pixel_scale": 0.11, "skycell_name": "270p65x49y70"}
    else:
        content["exposure"] = {"start_time": times[0], "end_time": times[1], "exposure_time": 107.0}
        area = (0.11 / 3600 * math.pi / 180) ** 2
        content["photometry"] = {"conversion_megajanskys": 0.7, "pixel_area": area}
        content["cal_step"] = {"flux": "INCOMPLETE"}
    for key, value in meta.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    float_type = np.float32 if mosaic else np.float16
    root: dict[str, Any] = {
        "meta": content,
        "data": image,
        "err": np.sqrt(photons + 4e-4).astype(float_type),
        "var_poisson": photons.astype(float_type),
    }
    if mosaic:
        root["weight"] = np.full(image.shape, 5, dtype=np.float32)
        root["context"] = np.ones((1, *image.shape), dtype=np.uint32)
    else:
        flags = np.zeros(image.shape, dtype=np.uint32)
        flags[3, 4], flags[20, 30] = 1, 2 | 2**7 | 2**31
        root["dq"] = flags
        root["amp33"] = np.arange(512, dtype=np.uint16).reshape(2, 16, 16)
    product = "wfi_mosaic-2.1.0" if mosaic else "wfi_image-2.2.0"
    return {"roman": TaggedDict(root, tag or f"asdf://stsci.edu/datamodels/roman/tags/{product}")}


def write_roman(path: Path, *, mosaic: bool, compression: str | None = None, **more: Any) -> Path:
    """Write a Roman image; tags of the mission are not known to asdf here, and written as they are."""
    import asdf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile(roman_tree(mosaic=mosaic, **more)).write_to(path, all_array_compression=compression)
    return path


# --- HST

HST_PRIMARY = {
    "ROOTNAME": "jdba2sgkq", "TELESCOP": "HST", "INSTRUME": "ACS", "DETECTOR": "WFC", "FILTER1": "CLEAR1L",
    "FILTER2": "F814W", "OBSTYPE": "IMAGING", "IMAGETYP": "EXT", "PROPOSID": 13667, "DATE-OBS": "2015-01-10",
    "TIME-OBS": "10:20:30", "EXPSTART": 57032.43, "EXPEND": 57032.45, "EXPTIME": 1200.0, "CCDGAIN": 2.0,
}  # fmt: skip
PHOTFLAM, PHOTPLAM = 7.0329e-20, 8045.5
HST_SCIENCE = {"PHOTFLAM": PHOTFLAM, "PHOTPLAM": PHOTPLAM, "PHOTZPT": -21.1, "PHOTMODE": "ACS WFC1 F814W MJD#57032.4"}
HST_SCALE = 0.05


def _hst_wcs(**more: Any) -> dict[str, Any]:
    turn = math.radians(30)
    step = HST_SCALE / 3600
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": RA, "CRVAL2": DEC, "CRPIX1": 40.0, "CRPIX2": 50.0,
        "CD1_1": -step * math.cos(turn), "CD1_2": step * math.sin(turn),
        "CD2_1": step * math.sin(turn), "CD2_2": step * math.cos(turn), "RADESYS": "ICRS",
    } | more  # fmt: skip


def _with_cards(hdu: Any, cards: dict[str, Any]) -> Any:
    for key, value in cards.items():
        if value is None:
            hdu.header.remove(key, ignore_missing=True)
        else:
            hdu.header[key] = value
    return hdu


def write_drz(path: Path, *, beside: str | None = None, bunit: str = "ELECTRONS/S", **cards: Any) -> Path:
    """Write a drizzled image with SCI, WHT and CTX, or one HDU with its weights in the file `beside`."""
    image = stars()
    weights = np.full(image.shape, 1200, dtype=np.float32)
    weights[:, :30] = 600
    weights[:8] = 0
    header = HST_SCIENCE | _hst_wcs() | {"BUNIT": bunit}
    drizzled = {"NDRIZIM": 4, "D001OUUN": "cps", "D001KERN": "square", "D001PIXF": 1.0, "D001FVAL": "INDEF"}
    primary = HST_PRIMARY | drizzled | cards
    if beside is not None:
        _with_cards(fits.PrimaryHDU(image), primary | header | cards).writeto(path)
        fits.PrimaryHDU(weights * 50).writeto(path.with_name(beside))
        return path
    hdus = [
        _with_cards(fits.PrimaryHDU(), primary),
        _with_cards(fits.ImageHDU(image, name="SCI"), header | {k: v for k, v in cards.items() if k in header}),
        fits.ImageHDU(weights, name="WHT"),
        fits.ImageHDU(np.ones(image.shape, dtype=np.int32), name="CTX"),
    ]
    fits.HDUList(hdus).writeto(path)
    return path


def _lookup() -> tuple[dict[str, Any], fits.ImageHDU]:
    """Cards that refer to a lookup table of the distortion along both axes, and the table: up to 0.4 pixels."""
    y, x = np.mgrid[:5, :5]
    table = fits.ImageHDU((0.1 * np.sin(x) * (y + 1)).astype(np.float32), name="WCSDVARR", ver=1)
    table.header.update({f"{key}{axis}": v for axis in (1, 2) for key, v in (("CRPIX", 0.0), ("CRVAL", 0.0))})
    table.header.update({"CDELT1": 24.0, "CDELT2": 24.0})
    parts = {"EXTVER": 1, "NAXES": 2, "AXIS.1": 1, "AXIS.2": 2}
    cards = {f"DP{axis}.{key}": value for axis in (1, 2) for key, value in parts.items()}
    return {"CPDIS1": "LOOKUP", "CPDIS2": "LOOKUP", **cards}, table


def write_flt(path: Path, *, chips: int = 2, cards_of_table: bool = False, table: bool = False, **cards: Any) -> Path:
    """Write a calibrated exposure of several chips in electrons, with SIP and, if asked, a lookup table."""
    sip = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2,
           "A_2_0": 8e-5, "A_1_1": -5e-5, "B_0_2": 6e-5, "B_1_1": 4e-5}  # fmt: skip
    hdus: list[Any] = [_with_cards(fits.PrimaryHDU(), HST_PRIMARY | cards)]
    for i in range(1, chips + 1):
        image = stars(seed=i, sky=50.0) * 10
        header = HST_SCIENCE | _hst_wcs(**sip) | {"BUNIT": "ELECTRONS", "CCDCHIP": chips + 1 - i, "IDCSCALE": HST_SCALE}
        if cards_of_table:
            header |= {key: value for key, value in _lookup()[0].items() if "." not in key}
        flags = np.zeros(image.shape, dtype=np.int16)
        flags[3, 4], flags[20, 30] = 256, 4096 | 16
        for name, plane in (("SCI", image), ("ERR", np.sqrt(np.maximum(image, 0) + 25)), ("DQ", flags)):
            hdu = fits.ImageHDU(plane if name == "DQ" else plane.astype(np.float32), name=name, ver=i)
            hdus.append(
                _with_cards(hdu, header | {k: v for k, v in cards.items() if k in header}) if name == "SCI" else hdu
            )
    if cards_of_table:
        for key, value in _lookup()[0].items():
            name, _, part = key.partition(".")
            if part:
                card = fits.Card.fromstring(f"{name:8}= '{part}: {float(value)}'")
                hdus[1].header.append(card, end=True)
    if table:
        hdus.append(_lookup()[1])
    fits.HDUList(hdus).writeto(path)
    return path
