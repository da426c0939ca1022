"""PSFs given as images, against the real LSST code and brute force."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import Box, FixedKernelPSF, KernelBasisPSF


@pytest.mark.data
def test_pca_psf_of_the_lsst_pipelines(data_dir: Path) -> None:
    name = "calexp_03_polymap_pca_xy0"
    with fits.open(data_dir / "afw_reference" / f"{name}.fits") as hdus:
        first = next(i for i, h in enumerate(hdus) if h.name == "ARCHIVE_INDEX")
        objects = {
            int(e["id"]): (e["name"].strip(), hdus[first + e["cat.archive"]].data[e["row0"]]) for e in hdus[first].data
        }
        kernel = next(row for kind, row in objects.values() if kind == "LinearCombinationKernel")
        average = next(row for kind, row in objects.values() if kind == "PcaPsf")
        shape = (int(kernel["dimensions_y"]), int(kernel["dimensions_x"]))
        psf = KernelBasisPSF(
            [np.array(objects[i][1]["image"]).reshape(shape) for i in kernel["components"]],
            [np.array(objects[i][1]["coefficients"]) for i in kernel["spatialfunctions"]],
            normalize=True,
            average_position=(float(average["averagePosition_x"]), float(average["averagePosition_y"])),
        )
    truth = json.loads((data_dir / "afw_reference" / f"{name}.json").read_text())["psf"]
    x, y = np.array([p["pixel"] for p in truth["positions"]]).T
    expected = [np.load(data_dir / "afw_reference" / p["kernel_npy"]) for p in truth["positions"]]
    assert psf.average_position == tuple(truth["average_position"])
    kernels = psf.kernels(x, y)
    np.testing.assert_allclose(kernels, expected, rtol=0, atol=1e-12)
    assert np.ptp(kernels, axis=0).max() > 1e-4  # it does vary


def test_polynomial_terms_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    basis, table = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 10))
    x, y = rng.uniform(-2, 2, (2, 7))
    expected = np.zeros((7, 5, 3))
    for n in range(7):
        terms = [1, x[n], y[n], x[n] ** 2, x[n] * y[n], y[n] ** 2]
        terms += [x[n] ** 3, x[n] ** 2 * y[n], x[n] * y[n] ** 2, y[n] ** 3]
        for b in range(4):
            expected[n] += sum(c * t for c, t in zip(table[b], terms, strict=True)) * basis[b]
    np.testing.assert_allclose(KernelBasisPSF(basis, table).kernels(x, y), expected, rtol=1e-12, atol=1e-12)


def test_chebyshev_terms_by_numpy() -> None:
    rng = np.random.default_rng(4)
    basis, table = rng.normal(size=(3, 3, 3)), rng.normal(size=(3, 15))
    box = Box(100.0, 900.0, -50.0, 650.0)
    psf = KernelBasisPSF(basis, table, chebyshev_box=box)
    x, y = rng.uniform(100, 900, 9), rng.uniform(-50, 650, 9)
    u, v = (x - 500) / 400, (y - 300) / 350
    expected = np.zeros((9, 3, 3))
    for row, image in zip(table, basis, strict=True):
        square = np.zeros((5, 5))
        for value, (i, j) in zip(row, [(d - j, j) for d in range(5) for j in range(d + 1)], strict=True):
            square[i, j] = value
        expected += np.polynomial.chebyshev.chebval2d(u, v, square)[:, None, None] * image
    np.testing.assert_allclose(psf.kernels(x, y), expected, rtol=1e-12, atol=1e-12)


def test_functions_of_different_degree() -> None:
    rng = np.random.default_rng(5)
    basis = rng.uniform(size=(3, 3, 3))
    ragged = KernelBasisPSF(basis, [[1.0], [0.5, 0.01, 0.02], [0.2, 0, 0, 1e-3, 2e-3, 3e-3]])
    full = KernelBasisPSF(basis, [[1.0, 0, 0, 0, 0, 0], [0.5, 0.01, 0.02, 0, 0, 0], [0.2, 0, 0, 1e-3, 2e-3, 3e-3]])
    np.testing.assert_array_equal(ragged.kernels([3.0, 4.0], [5.0, 6.0]), full.kernels([3.0, 4.0], [5.0, 6.0]))


def test_normalisation_comes_after_the_combination() -> None:
    rng = np.random.default_rng(6)
    psf = KernelBasisPSF(rng.uniform(size=(3, 7, 7)), rng.uniform(size=(3, 3)) * [1, 1e-3, 1e-3], normalize=True)
    np.testing.assert_allclose(psf.kernels([10.0, 900.0], [500.0, 20.0]).sum(axis=(1, 2)), 1, rtol=1e-14)
    falling = KernelBasisPSF(np.ones((1, 1, 1)), [[1.0, -0.01, 0.0]], normalize=True)
    with pytest.raises(PsfError, match="position number 1") as caught:
        falling.kernels([10.0, 500.0], [0.0, 0.0])
    assert pickle.loads(pickle.dumps(caught.value)).fix == caught.value.fix


def test_fixed_kernel_is_used_as_given() -> None:
    kernel = np.random.default_rng(7).normal(size=(5, 7))
    psf = FixedKernelPSF(kernel)
    np.testing.assert_array_equal(psf.kernels([1.0, 2.0], [3.0, 4.0]), [kernel, kernel])
    kernel[0, 0] = 99
    assert psf.kernels(0, 0)[0, 0, 0] != 99
    assert FixedKernelPSF(np.full((3, 3), 2.0), normalize=True).kernels(0, 0).sum() == pytest.approx(1, rel=1e-15)


def test_even_kernels_need_a_word() -> None:
    kernel = np.zeros((4, 6))
    kernel[2, 3] = 1.0
    with pytest.raises(ConfigError, match=r"no middle pixel.*pad_even"):
        FixedKernelPSF(kernel)
    padded = FixedKernelPSF(kernel, pad_even=True).kernels(0, 0)[0]
    assert padded.shape == (5, 7)
    assert np.argwhere(padded).tolist() == [[2, 3]]
    assert FixedKernelPSF(np.ones((3, 5)), pad_even=True).shape == (3, 5)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: FixedKernelPSF(np.ones(9)), ConfigError),
        (lambda: FixedKernelPSF(np.ones((0, 3))), ConfigError),
        (lambda: FixedKernelPSF(np.full((3, 3), np.nan)), PsfError),
        (lambda: FixedKernelPSF(np.zeros((3, 3)), normalize=True), PsfError),
        (lambda: FixedKernelPSF(-np.ones((3, 3)), normalize=True), PsfError),
        (lambda: KernelBasisPSF(np.ones((2, 3, 3)), [[1.0]]), ConfigError),
        (lambda: KernelBasisPSF(np.ones((1, 3, 3)), [[1.0, 2.0]]), ConfigError),
        (lambda: KernelBasisPSF(np.ones((1, 3, 3)), [[]]), ConfigError),
        (lambda: KernelBasisPSF(np.ones((1, 3, 3)), [[np.inf]]), PsfError),
        (lambda: KernelBasisPSF(np.ones((1, 3, 4)), [[1.0]]), ConfigError),
        (lambda: KernelBasisPSF(np.ones((0, 3, 3)), []), ConfigError),
        (lambda: KernelBasisPSF(np.ones((1, 3, 3)), [[1.0]], chebyshev_box=Box(1, 1, 0, 5)), ConfigError),
    ],
)
def test_bad_models_are_refused(make: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()  # type: ignore[operator]


def test_bad_positions_are_refused() -> None:
    psf = FixedKernelPSF(np.ones((3, 3)))
    with pytest.raises(PsfError, match="number 1 of 3"):
        psf.kernels([1.0, np.nan, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ConfigError, match="do not go together"):
        psf.kernels([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ConfigError, match="one-dimensional"):
        psf.kernels(np.zeros((2, 2)), np.zeros((2, 2)))
    assert psf.kernels([1.0, 2.0, 3.0], 5.0).shape == (3, 3, 3)
