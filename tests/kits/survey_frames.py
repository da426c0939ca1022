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


_ZTF = """\
SIMPLE  =                    T / conforms to FITS standard
BITPIX  =                  -32 / array data type
NAXIS   =                    2 / number of array dimensions
NAXIS1  =                 3072
NAXIS2  =                 3080
EXTEND  =                    T
ORIGIN  = 'Zwicky Transient Facility' / Origin
OBSERVER= 'ZTF Robotic Software' / Observer
INSTRUME= 'ZTF/MOSAIC'         / Instrument name
OBSERVAT= 'Palomar Observatory' / Observatory
TELESCOP= 'Palomar 48-inch'    / Telescope
OBSLON  =            -116.8597 / Observatory longitude (deg)
OBSLAT  =              33.3483 / Observatory latitude (deg)
OBSALT  =                1706. / Observatory altitude (m)
IMGTYPE = 'object  '           / Image type
EXPOSURE=                  30. / Exposure time [s]
OBSJD   =      2459053.6645949 / Julian day at start of exposure
OBSMJD  =        59053.1645949 / MJD at start of exposure
SHUTOPEN= '2020-07-23T03:57:01.003' / Shutter open time (UTC)
FIELDID =                  752 / ZTF field ID
FILTERID=                    1 / Filter ID
FILTER  = 'ZTF_g   '           / Filter name
CCDID   =                    2 / CCD number (1..16)
QID     =                    3 / Quadrant ID (1..4)
PROGRMID=                    1 / Program ID
GAIN    =                  6.2 / Gain [e-/ADU]
READNOI =                 10.2 / Read noise [e-]
SATURATE=    51371.04951171875 / Saturation level [DN]
PIXSCALE=                 1.01 / Pixel scale [arcsec/pixel]
CTYPE1  = 'RA---TPV'           / TPV (TAN with distortion terms)
CTYPE2  = 'DEC--TPV'           / TPV
CUNIT1  = 'deg     '
CUNIT2  = 'deg     '
CRPIX1  =               1536.5
CRPIX2  =               1540.5
CRVAL1  =         246.16290000
CRVAL2  =          36.33820000
CD1_1   =  -2.8136900000000E-4
CD1_2   =  -1.3456700000000E-6
CD2_1   =   1.3459800000000E-6
CD2_2   =  -2.8134800000000E-4
PV1_0   =  -1.0342500000000E-4
PV1_1   =  1.00048620000000000
PV1_2   =  2.14250000000000E-4
PV1_4   =  -3.4211300000000E-4
PV1_5   =  1.50329000000000E-4
PV1_7   =  8.10339000000000E-4
PV2_0   =  4.18254000000000E-5
PV2_1   =  0.99975119000000000
PV2_2   =  -1.9126000000000E-4
PV2_4   =  2.40214000000000E-4
PV2_6   =  -1.1930100000000E-4
PV2_7   =  -5.6130200000000E-4
RADECSYS= 'ICRS    '
EQUINOX =               2000.0
SEEING  =                2.103 / Seeing FWHM [pixels]
MAGZP   =    26.32573890686035 / Magnitude zeropoint for image [mag]
MAGZPUNC=  8.0523460405200E-06 / Mag ZP uncertainty [mag]
MAGZPRMS=  0.03527200222015381 / RMS (deviation) of mag calibration fit [mag]
CLRCOEFF= -0.05153470113873482 / Linear color coefficient from calibration
CLRCOUNC=  1.7239600000000E-05 / Color coeff uncertainty
PCOLOR  = 'PAN-STARRS G minus PAN-STARRS R' / Color used in calibration
MAGLIM  =             20.97399 / Magnitude limit [mag]
APCOR1  =              -1.0023 / Aperture mag correction for 2.0 pix diameter
APCOR5  =              -0.0291 / Aperture mag correction for 10.0 pix diameter
INFOBITS=                    0 / Database infobits (2^2 and 2^3 excluded)"""

_ZTF_BITS = (
    "AIRCRAFT/SATELLITE TRACK", "OBJECT (detected by SExtractor)", "LOW RESPONSIVITY", "HIGH RESPONSIVITY", "NOISY",
    "GHOST", "CCD BLEED", "PIXEL SPIKE (POSSIBLE RAD HIT)", "SATURATED", "DEAD (UNRESPONSIVE)", "NAN (not a number)",
    "CONTAINS PSF-EXTRACTED SOURCE POSITION", "HALO", "RESERVED", "RESERVED", "RESERVED",
)  # fmt: skip


def write_ztf_image(
    path: Path, shape: tuple[int, int] = (96, 112), mask: bool = True, psf: bool = True, **cards: Any
) -> Path:
    """Write a science image of ZTF with its sky, and beside it its mask and the PSF image of its middle.

    Returns
    -------
    Path
        `path`.
    """
    ny, nx = shape
    header = _cards(_ZTF)
    header["CRPIX1"], header["CRPIX2"] = nx / 2 + 0.5, ny / 2 + 0.5
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    rng = np.random.default_rng(4)
    image = rng.normal(160, np.sqrt(160 / 6.2), shape).astype(np.float32)
    fits.PrimaryHDU(image, header).writeto(path)
    if mask:
        bits = (rng.random(shape) < 0.02).astype(np.int16) * 2 + (rng.random(shape) < 0.01).astype(np.int16) * 256
        hdu = fits.PrimaryHDU(bits, header)
        for bit, text in enumerate(_ZTF_BITS):
            hdu.header[f"BIT{bit:02d}"] = (bit, text)
        hdu.writeto(path.with_name(path.name.replace("sciimg", "mskimg")))
    if psf:
        y, x = np.mgrid[-12:13, -12:13]
        kernel = (1 + ((x + 0.1 * y) ** 2 + y**2) / 2.4) ** -2.5
        name = f"{path.name.split('sciimg')[0]}sciimgdaopsfcent.fits"
        fits.PrimaryHDU((kernel / kernel.sum()).astype(np.float32)).writeto(path.with_name(name))
    return path


def write_psfield(path: Path, sigma: float = 1.5) -> Path:
    """Write a psField file: in each band one Gaussian, and its derivative by width times the column.

    Returns
    -------
    Path
        `path`.
    """
    y, x = np.mgrid[-25:26, -25:26].astype(float)
    square = x**2 + y**2
    spot = np.exp(-square / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    wider = spot * (square / sigma**3 - 2 / sigma)
    terms = np.zeros((2, 5, 5), np.float32)
    terms[0, 0, 0] = 1
    terms[1, 0, 1] = 0.4  # per 1000 columns
    hdus = [fits.PrimaryHDU()]
    for _ in range(5):
        columns = [
            fits.Column("NROW_B", "J", array=[1, 1]),
            fits.Column("NCOL_B", "J", array=[1, 2]),
            fits.Column("RNROW", "J", array=[51, 51]),
            fits.Column("RNCOL", "J", array=[51, 51]),
            fits.Column("C", "25E", dim="(5,5)", array=terms),
            fits.Column("RROWS", "2601E", array=np.array([spot.ravel(), wider.ravel()], np.float32)),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns))
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("status", "5J", array=[[0, 0, 0, 0, 0]])]))
    fits.HDUList(hdus).writeto(path)
    return path
