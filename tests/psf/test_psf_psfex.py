"""PSFEx models against the real LSST code, GalSim and brute force."""

from __future__ import annotations

import json
from pathlib import Path

import galsim
import galsim.des
import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import Box, PsfexPSF, check_psf, kernel_fwhm, read_psfex


def archived(path: Path) -> PsfexPSF:
    """The PsfexPsf of an LSST exposure."""
    with fits.open(path) as hdus:
        first = next(i for i, h in enumerate(hdus) if h.name == "ARCHIVE_INDEX")
        entries = [e for e in hdus[first].data if e["name"].strip() == "PsfexPsf"]
        head, body = (
            hdus[first + e["cat.archive"]].data[e["row0"]] for e in sorted(entries, key=lambda e: e["cat.persistable"])
        )
        width, height, n = (int(v) for v in body["_size"])
        return PsfexPSF(
            np.array(body["_comp"]).reshape(n, height, width),
            int(np.atleast_1d(body["degree"])[0]),
            tuple(body["_context_first"].tolist()),
            tuple(body["_context_second"].tolist()),
            float(head["_pixstep"]),
            convention="lsst",
            average_position=(float(head["averagePosition_x"]), float(head["averagePosition_y"])),
        )


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "image", "truth"),
    [
        ("cfht_849375", "calexp-849375-12.fits.fz", "truth_849375.json"),
        ("afw_reference", "calexp_05_tansip_psfex_rice.fits", "calexp_05_tansip_psfex_rice.json"),
    ],
)
def test_lsst_convention(data_dir: Path, folder: str, image: str, truth: str) -> None:
    psf = archived(data_dir / folder / image)
    expected = json.loads((data_dir / folder / truth).read_text())["psf"]
    assert psf.average_position == tuple(expected["average_position"])
    for position in expected["positions"]:
        real = np.load(data_dir / folder / position["kernel_npy"])
        kernel = psf.kernels(*position["pixel"])[0]
        assert kernel.shape == real.shape
        # the real code normalises by a single-precision sum, which is off by up to 1.2e-6, and so do we
        assert kernel.sum() == pytest.approx(1, abs=2e-6)
        np.testing.assert_allclose(kernel, real, rtol=0, atol=2e-7 * real.max())
    check_psf(psf, [100.0, 900.0, 1500.0], [200.0, 300.0, 500.0])


STANDARD = [f"video_H/image_{i}.psf" for i in (1, 2, 3, 4)]
MERGED = [
    "decam_stars/r/calib/psfex/decam/CP/V4.8.2a/CP20171112/c4d_171113_060340_ooi_r_ls9-psfex.fits",
    "decam_stars/z/calib/psfex/decam/CP/V4.8.2/CP20170315/c4d_170316_062107_ooi_z_ls9-psfex.fits",
]
BARE = [f"decam_grz/calib/decam/psfex/{n[:5]}/{n}/decam-{n}-S10.fits" for n in ("00384128", "00390498", "00390924")]


@pytest.mark.data
@pytest.mark.parametrize("name", STANDARD)
def test_standard_files_against_galsim(data_dir: Path, name: str) -> None:
    psf = read_psfex(data_dir / name)
    oracle = galsim.des.DES_PSFEx(str(data_dir / name))
    ny, nx = psf.shape
    for x, y in [(10.0, 20.0), (905.5, 1300.25), (1800.0, 1750.0)]:
        kernel = psf.kernels(x, y)[0]
        # GalSim counts pixels from one, as PSFEx does, scales to unit flux, and interpolates with Lanczos-3 by default
        at = galsim.PositionD(x + 1, y + 1)
        samples = oracle.getPSFArray(at).astype(float)
        for order, tolerance in ((3, 6e-3), (4, 3e-4)):
            profile = oracle.getPSF(at)
            if order == 4:  # the same samples with PSFEx's own interpolant
                image = galsim.ImageD(samples)
                profile = galsim.InterpolatedImage(image, scale=psf.step, flux=1, x_interpolant=galsim.Lanczos(4))
            drawn = profile.drawImage(nx=nx, ny=ny, scale=1, method="no_pixel", dtype=float).array
            scaled = kernel / (samples.sum() * psf.step**2)
            np.testing.assert_allclose(scaled, drawn, rtol=0, atol=tolerance * scaled.max())
        # samples times the squared step is the sum in pixels
        assert kernel.sum() == pytest.approx(samples.sum() * psf.step**2, rel=4e-3)
        assert 1.01 < kernel.sum() < 1.08


@pytest.mark.data
@pytest.mark.parametrize("name", STANDARD)
def test_standard_files_are_band_limited(data_dir: Path, name: str) -> None:
    # exact interpolation: the Fourier series of the samples, evaluated at pixel centres
    with fits.open(data_dir / name) as hdus:
        samples = hdus[1].data["PSF_MASK"][0][0].astype(float)
    psf = PsfexPSF(samples[None], 0, step=(step := read_psfex(data_dir / name).step))
    n, half = len(samples), psf.shape[0] // 2
    at = n // 2 + np.arange(-half, half + 1) / step
    wave = np.exp(2j * np.pi * np.fft.fftfreq(n)[None] * at[:, None]) / n
    exact = (wave @ np.fft.fft2(samples) @ wave.T).real
    kernel = psf.kernels(0, 0)[0]
    assert np.abs(kernel - exact).max() < 1e-2 * exact.max()
    assert np.sqrt(np.mean((kernel - exact) ** 2)) < 2e-3 * exact.max()


@pytest.mark.data
@pytest.mark.parametrize("name", STANDARD + BARE + MERGED)
def test_real_files(data_dir: Path, name: str) -> None:
    psf = read_psfex(data_dir / name)
    with fits.open(data_dir / name) as hdus:
        table, header = hdus[1].data, hdus[1].header
        upper = {c.upper(): c for c in table.names}
        get = {
            k: table[upper[k]][0] if k in upper else header[k]
            for k in ("POLZERO1", "POLZERO2", "POLSCAL1", "POLSCAL2", "POLDEG1", "PSF_SAMP", "PSF_MASK")
        }
    mask = np.asarray(get["PSF_MASK"], float)
    x, y = 30.0, 77.0
    u, v = (x + 1 - get["POLZERO1"]) / get["POLSCAL1"], (y + 1 - get["POLZERO2"]) / get["POLSCAL2"]
    terms = [u**i * v**j for j in range(get["POLDEG1"] + 1) for i in range(get["POLDEG1"] + 1 - j)]
    samples = sum(t * m for t, m in zip(terms, mask, strict=True))
    kernel = psf.kernels(x, y)[0]
    if get["PSF_SAMP"] == 1:
        np.testing.assert_allclose(kernel, samples, rtol=0, atol=1e-12)  # nothing to resample
    assert kernel[psf.shape[0] // 2, psf.shape[1] // 2] == pytest.approx(
        samples[mask.shape[1] // 2, mask.shape[2] // 2]
    )
    assert np.abs(np.subtract(np.unravel_index(kernel.argmax(), kernel.shape), np.array(psf.shape) // 2)).max() <= 1
    assert 1.005 < kernel.sum() < 1.08
    assert 2 < kernel_fwhm(kernel[None])[0] < 8
    # an image moved in its parent frame moves the model with it
    moved = read_psfex(data_dir / name, xy0=(1000.0, -50.0))
    np.testing.assert_allclose(moved.kernels(x + 1000, y - 50)[0], kernel, rtol=0, atol=1e-14)
    check_psf(psf, [0.0, 100.0, 150.0], [199.0, 20.0, 60.0])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, (200, 200)) for n in BARE] + [(MERGED[0], (280, 375)), (MERGED[1], (245, 251))],
)
def test_valid_box_covers_the_images(data_dir: Path, name: str, shape: tuple[int, int]) -> None:
    box = read_psfex(data_dir / name).valid_box
    assert box is not None
    assert box.contains([0, shape[1] - 1], [0, shape[0] - 1]).all()


@pytest.mark.data
@pytest.mark.parametrize("i", [1, 2, 3, 4])
def test_valid_box_is_the_span_of_the_stars(data_dir: Path, i: int) -> None:
    with fits.open(data_dir / f"video_H/image_{i}.fits") as hdus:
        ny, nx = next(h.shape for h in hdus if h.header.get("NAXIS", 0) == 2)
    box = read_psfex(data_dir / f"video_H/image_{i}.psf").valid_box
    assert box is not None
    assert box.contains([0, nx - 1], [0, ny - 1]).all()  # stars nearly reach the edges
    assert box.x_max - box.x_min < 1.1 * nx and box.y_max - box.y_min < 1.1 * ny
    assert not box.contains(nx + 200, 10)


def test_valid_box() -> None:
    basis = np.ones((3, 5, 5))
    assert PsfexPSF(basis, 1, (100.0, 200.0), (80.0, 40.0)).valid_box == Box(56.0, 144.0, 178.0, 222.0)
    assert PsfexPSF(basis[:1], 0).valid_box is None
    given = Box(0, 10, 0, 10)
    assert PsfexPSF(basis, 1, (100.0, 200.0), (80.0, 40.0), valid_box=given).valid_box == given


@pytest.mark.parametrize("convention", ["psfex", "lsst"])
@pytest.mark.parametrize("step", [0.4, 0.7, 1.0, 1.3])
def test_a_known_profile_comes_back(convention: str, step: float) -> None:
    # a Gaussian, sampled finely, is the same Gaussian in pixels
    sigma, n = 2.4, 61
    t = (np.arange(n) - n // 2) * step
    samples = np.exp(-0.5 * (t[:, None] ** 2 + t**2) / sigma**2) / (2 * np.pi * sigma**2)
    psf = PsfexPSF(samples[None], 0, step=step, convention=convention)
    half = psf.shape[0] // 2
    i = np.arange(-half, half + 1)
    expected = np.exp(-0.5 * (i[:, None] ** 2 + i**2) / sigma**2) / (2 * np.pi * sigma**2)
    np.testing.assert_allclose(psf.kernels(0, 0)[0], expected, rtol=0, atol=3e-3 * expected.max())
    assert psf.kernels(0, 0).sum() == pytest.approx(1, abs=2e-3)


def test_bad_models_are_refused() -> None:
    basis = np.ones((3, 5, 5))
    for make in (
        lambda: PsfexPSF(basis, 2),
        lambda: PsfexPSF(basis[0], 0),
        lambda: PsfexPSF(basis, -1),
        lambda: PsfexPSF(basis, 1, step=0.0),
        lambda: PsfexPSF(basis, 1, scale=(0.0, 1.0)),
        lambda: PsfexPSF(basis, 1, zero=(np.nan, 1.0)),
        lambda: PsfexPSF(basis, 1, convention="tractor"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(PsfError, match="no light"):
        PsfexPSF(basis * 0, 1)
    with pytest.raises(PsfError, match="not finite"):
        PsfexPSF(basis * np.nan, 1)
