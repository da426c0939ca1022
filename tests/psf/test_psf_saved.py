from __future__ import annotations

import numpy as np
import pytest
from photutils.psf import GriddedPSFModel

from skygraft.errors import OutputExistsError, PsfError
from skygraft.psf import (
    Box,
    CellPSF,
    FixedKernelPSF,
    GaussianPSF,
    KernelBasisPSF,
    MoffatPSF,
    read_psf_image,
    write_psf,
)

BOX = Box(-0.5, 199.5, -0.5, 99.5)


def kernel(sigma):
    r2 = np.sum((np.mgrid[:31, :31] - 15) ** 2, axis=0)
    return np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def test_a_psf_on_pixels_comes_back_as_it_was(tmp_path):
    # linear in x and y: what is between the grid's positions is exact. Its kernels do not sum to one.
    psf = KernelBasisPSF([1.04 * kernel(1.7), kernel(2.2)], [[1.0, 0.0, 0.0], [0.0, 1e-3, 5e-4]])
    path = write_psf(psf, tmp_path / "psf.fits", BOX, pixel_scale=0.2, band="r", n_grid=2)
    again = read_psf_image(path, 0.2)
    x, y = np.random.default_rng(1).uniform(0, 99, (2, 5))
    assert np.abs(again.kernels(x, y) - psf.kernels(x, y)).max() < 1e-12
    assert again.oversampling == (1, 1)
    assert "saved PSF psf.fits" in again.description
    with pytest.raises(PsfError, match=r"made for pixels of 0\.2 arcsec .*, the image has pixels of 0\.3"):
        read_psf_image(path, 0.3)
    with pytest.raises(OutputExistsError):
        write_psf(psf, path, BOX)


@pytest.mark.parametrize("psf", [MoffatPSF(2.0, 3.0), GaussianPSF(fwhm=1.8)])
def test_a_psf_between_pixels_is_saved_with_samples_between_them(tmp_path, psf):
    path = write_psf(psf, tmp_path / "psf.fits", BOX, n_grid=1)
    again = read_psf_image(path, 0.2)
    assert again.oversampling == (4, 4)
    rows = columns = np.arange(-4, 5) + 0.37
    expected, found = (one.sub_pixel.values(rows, columns)[0] for one in (psf, again))
    assert np.abs(found - expected).max() < 3e-4 * expected.max()


def test_photutils_reads_it(tmp_path):
    psf = KernelBasisPSF([kernel(1.7), kernel(2.2)], [[1.0, 0.0, 0.0], [0.0, 1e-3, 5e-4]])
    path = write_psf(psf, tmp_path / "psf.fits", BOX, n_grid=3, overwrite=True)
    model = GriddedPSFModel.read(path, format="webbpsf")
    y, x = np.mgrid[:31, :31]
    model.x_0, model.y_0 = 120, 40
    assert np.abs(model(x + 105, y + 25) - psf.kernels([120], [40])[0]).max() < 1e-12


def test_where_there_is_no_psf(tmp_path):
    kernels = np.full((1, 2, 9, 9), np.nan)
    kernels[0, 0] = 1 / 81
    with pytest.raises(PsfError, match="no kernel at some of the 9 positions"):
        write_psf(CellPSF(kernels, (0, 0), (100, 100)), tmp_path / "psf.fits", BOX, n_grid=3)
    assert not list(tmp_path.iterdir())
    assert write_psf(FixedKernelPSF(kernel(2)), tmp_path / "psf.fits", BOX, n_grid=1).is_file()
