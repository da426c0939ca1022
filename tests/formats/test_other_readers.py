"""What is written, read by cfitsio: fitsio in this process, and funpack where it is installed (libcfitsio-bin)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skygraft import read_exposure, write_exposure

fitsio = pytest.importorskip("fitsio")
pytestmark = pytest.mark.data

IMAGES = {
    "afw, plain": "afw_reference/calexp_06_tan_afwgaussian.fits",
    "afw, GZIP_2": "afw_reference/calexp_02_tansip_doublegauss_gzip2.fits",
    "afw, Rice": "afw_reference/calexp_05_tansip_psfex_rice.fits",
    "afw, coadd": "afw_reference/coadd_10_coaddpsf.fits",
    "visit": "rubin/dp1_visit_image.fits",
    "cell coadd": "rubin/dp1_cell_coadd.fits",
}


def changed(source: Path, out: Path) -> np.ndarray:
    """Write an image with other pixels in its middle; its pixels."""
    exposure = read_exposure(source)
    image = np.array(exposure.image)
    ny, nx = image.shape
    image[ny // 3 : 2 * ny // 3, nx // 3 : 2 * nx // 3] += 100.0
    planes = exposure.planes.copy()
    planes["image"] = exposure.planes["image"].copy(data=image)
    write_exposure(exposure.replace(planes=planes), out)
    return image


def image_hdu(path: Path) -> int:
    with fits.open(path) as hdus:
        return next(i for i, hdu in enumerate(hdus) if hdu.name == "IMAGE")


@pytest.mark.parametrize("name", IMAGES)
def test_cfitsio_reads_what_is_written(data_dir: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.fits"
    image = changed(data_dir / IMAGES[name], out)
    number = image_hdu(out)
    with fits.open(out) as hdus:
        by_astropy = np.asarray(hdus[number].data)
    with fitsio.FITS(str(out)) as file:
        by_fitsio = file[number].read()
        assert len(file) > number
    np.testing.assert_array_equal(by_fitsio, by_astropy)
    step = 0.0
    if "Rice" in name:
        with fits.open(out, disable_image_compression=True) as raw:
            step = 1.01 * raw[number].data["ZSCALE"].max()
    np.testing.assert_allclose(by_fitsio, image, rtol=0, atol=step)


@pytest.mark.parametrize("name", ["afw, GZIP_2", "afw, Rice"])
def test_funpack_reads_what_is_written(data_dir: Path, tmp_path: Path, name: str) -> None:
    if shutil.which("funpack") is None:
        pytest.skip("there is no funpack (Debian: libcfitsio-bin)")
    out, unpacked = tmp_path / "out.fits", tmp_path / "unpacked.fits"
    changed(data_dir / IMAGES[name], out)
    subprocess.run(["funpack", "-O", unpacked, out], check=True)
    with fits.open(out) as before, fits.open(unpacked) as after:
        np.testing.assert_array_equal(after["IMAGE"].data, before["IMAGE"].data)
