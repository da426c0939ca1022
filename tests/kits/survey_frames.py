"""Small images in the layout of surveys' single frames, written by astropy with the cards of real headers."""

from __future__ import annotations

import bz2
import io
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

RUN, CAMCOL, FIELD = 6073, 4, 63
SDSS_NAME = f"frame-r-{RUN:06d}-{CAMCOL}-{FIELD:04d}.fits"
ZTF_NAME = "ztf_20200723164595_000752_zg_c02_o_q3_sciimg.fits"
TAI = 4649386883.62

_SDSS = """\
SIMPLE  =                    T /
BITPIX  =                  -32 / 32 bit floating point
NAXIS   =                    2
NAXIS1  =                 2048
NAXIS2  =                 1489
EXTEND  =                    T /Extensions may be present
BZERO   =              0.00000 /Set by MRD_SCALE
BSCALE  =              1.00000 /Set by MRD_SCALE
TAI     =        4649386883.62 / 1st row - Number of seconds since Nov 17 1858
RA      =            179.68929 / 1st row - Right ascension of telescope boresigh
DEC     =            -0.439180 / 1st row - Declination of telescope boresight (d
SPA     =               90.000 / 1st row - Camera col position angle wrt north (
IPA     =              180.000 / 1st row - Instrument rotator position angle (de
IPARATE =               0.0000 / 1st row - Instrument rotator angular velocity (
AZ      =            35.120000 / 1st row - Azimuth  (encoder) of tele (0=N?) (de
ALT     =            54.300000 / 1st row - Altitude (encoder) of tele        (de
FOCUS   =           -540.50000 / 1st row - Focus piston (microns?)
DATE-OBS= '2006-03-27'         / 1st row - TAI date
TAIHMS  = '10:08:03.61'        / 1st row - TAI time (HH:MM:SS.SS) (TAI-UT = appr
COMMENT  TAI,RA,DEC,SPA,IPA,IPARATE,AZ,ALT,FOCUS at reading of col 0, row 0
ORIGIN  = 'SDSS    '
TELESCOP= '2.5m    '
TIMESYS = 'TAI     '
RUN     =                 6073 / Run number
FRAME   =                   69 / Frame sequence number within the run
CCDLOC  =                   14 / Survey location of CCD (e.g., rowCol)
STRIPE  =                   11 / Stripe index number (23 <--> eta=0)
STRIP   = 'S       '           / Strip in the stripe being tracked.
FLAVOR  = 'science '           / Flavor of this run
OBSERVER= 'nobody  '           / Observer
SYS_SCN = 'mean    '           / System of the scan great circle (e.g., mean)
EQNX_SCN=              2000.00 / Equinox of the scan great circle. (years)
NODE    =            95.000000 / RA of the great circle's ascending node (deg)
INCL    =             0.008392 / Great circle's inclination wrt cel. eq. (deg)
XBORE   =                22.74 / Boresight x offset from the array center (mm)
YBORE   =                 0.00 / Boresight x offset from the array center (mm)
OBJECT  = '11 S    '           / e.g., 'stripe 50.6 degrees, north strip'
EXPTIME = '53.907456'          / Exposure time (seconds)
SYSTEM  = 'FK5     '           / System of the TCC coordinates (e.g., mean)
CCDMODE = 'DRIFT   '           / 'STARING' or 'DRIFT'
C_OBS   =                26322 / CCD row clock rate (usec/row)
COLBIN  =                    1 / Binning factor perpendicular to the columns
ROWBIN  =                    1 / Binning factor perpendicular to the rows
CAMROW  =                    1 / Row in the imaging camera
BADLINES=                    0 / Number of bad lines in frame
EQUINOX =              2000.00 / Equinox of the CRVAL
SOFTBIAS=                 1000 / software "bias" added to all DN
BUNIT   = 'nanomaggy'          / 1 nanomaggy = 3.631e-6 Jy
FILTER  = 'r       '           / filter used
CAMCOL  =                    4 / column in the imaging camera
VERSION = 'v5_6_3  '
RADECSYS= 'ICRS    '           / International Celestial Ref. System
CTYPE1  = 'RA---TAN'           /Coordinate type
CTYPE2  = 'DEC--TAN'           /Coordinate type
CUNIT1  = 'deg     '           /Units
CUNIT2  = 'deg     '           /Units
CRPIX1  =        1025.00000000 /X of reference pixel
CRPIX2  =        745.000000000 /Y of reference pixel
CRVAL1  =        179.689293428 /RA of reference pixel (deg)
CRVAL2  =      -0.454379077000 /Dec of reference pixel (deg)
CD1_1   =   -1.59021325000E-07 /RA deg per column pixel
CD1_2   =    0.000109986131000 /RA deg per row pixel
CD2_1   =    0.000109958722000 /Dec deg per column pixel
CD2_2   =    1.90250360000E-07 /Dec deg per row pixel
NMGY    =           0.00527356 / Calibration value [nMgy per count]
NMGYIVAR=              5263.16 / Calibration inverse variance
VERSIDL = '7.0     '           / Version of IDL
VERSUTIL= 'v5_5_5  '           / Version of idlutils
VERSPOP = 'v1_11_3 '           / Version of photoop product
PCALIB  = 'default '           / Value of PHOTO_CALIB
PSKY    = 'default '           / Value of PHOTO_SKY
RERUN   = '301     '           / rerun
HISTORY SDSS_FRAME_ASTROM: Astrometry fixed for dr9 Sun Jun 24 17:57:27 2012"""


def _cards(text: str) -> fits.Header:
    return fits.Header([fits.Card.fromstring(line.ljust(80)) for line in text.splitlines()])


def calibration(nx: int) -> np.ndarray[Any, Any]:
    """Nanomaggies per count of each column: 4 % lower at the last than at the first."""
    return (0.0053 * np.linspace(1.02, 0.98, nx)).astype(np.float32)


def write_sdss_frame(
    path: Path, shape: tuple[int, int] = (96, 128), level: float = 0.0, seed: int = 3, **cards: Any
) -> Path:
    """Write a frame: a sky of about 110 counts with its noise, `level` nanomaggies everywhere, and all four HDUs.

    Returns
    -------
    Path
        `path`; compressed if it ends in ``.bz2``.
    """
    ny, nx = shape
    header = _cards(_SDSS)
    header["CRPIX1"], header["CRPIX2"] = nx / 2 + 1, ny / 2 + 0.5
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    rng = np.random.default_rng(seed)
    scale = calibration(nx)
    coarse = (110 + np.add.outer(0.05 * np.arange(12), -0.02 * np.arange(16))).astype(np.float32)
    noise = rng.normal(0, np.sqrt(110 / 4.76 + 1.3225), shape) * scale
    image = fits.PrimaryHDU((noise + level).astype(np.float32), header)
    columns = [
        fits.Column("ALLSKY", f"{coarse.size}E", dim=f"({coarse.shape[1]},{coarse.shape[0]})", array=coarse[None]),
        fits.Column("XINTERP", f"{nx}E", array=(np.arange(nx, dtype=np.float32) / 8 - 0.4)[None]),
        fits.Column("YINTERP", f"{ny}E", array=(np.arange(ny, dtype=np.float32) / 8 - 0.4)[None]),
    ]
    astrans = [fits.Column("FIELD", "J", array=[FIELD]), fits.Column("NODE", "D", array=[95.0])]
    hdus = fits.HDUList(
        [image, fits.ImageHDU(scale), fits.BinTableHDU.from_columns(columns), fits.BinTableHDU.from_columns(astrans)]
    )
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    path.write_bytes(bz2.compress(buffer.getvalue()) if path.suffix == ".bz2" else buffer.getvalue())
    return path
