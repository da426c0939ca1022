"""Archive classes of which no real file is at hand, from archives made here as the pipelines lay them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import CalibrationError, FormatError, PsfError, UncalibratedImageError, WcsError
from skygraft.fitsfile.open import map_fits
from skygraft.formats import afw_objects
from skygraft.formats.afw_archive import Archive
from skygraft.formats.afw_psfs import build_psf
from skygraft.psf import FixedKernelPSF, GaussianPSF

type Rows = Sequence[Mapping[str, Any]]
RNG = np.random.default_rng(8)


def column(name: str, values: Sequence[Any]) -> fits.Column:
    first = np.asarray(values[0])
    code = {"i": "J", "f": "D", "U": "A", "u": "B"}[first.dtype.kind]
    if code == "B":
        return fits.Column(name, "QB()", array=np.array([*values, None], dtype=object)[:-1])
    length = 64 if code == "A" else first.size
    return fits.Column(name, f"{length}{code}", array=np.array(values))


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Archive]:
    """A function that writes objects, (class name, parts), numbered from 1, and opens their archive."""
    opened = []

    def make(*objects: tuple[str, Sequence[Rows]]) -> Archive:
        tables: list[fits.BinTableHDU] = []
        index = []
        for number, (name, parts) in enumerate(objects, start=1):
            for persistable, rows in enumerate(parts):
                entry = {"id": number, "cat.persistable": persistable, "name": name, "module": ""}
                if rows:
                    tables.append(fits.BinTableHDU.from_columns([column(k, [row[k] for row in rows]) for k in rows[0]]))
                    entry |= {"cat.archive": len(tables), "row0": 0, "nrows": len(rows)}
                else:
                    entry |= {"cat.archive": -1, "row0": -1, "nrows": 0}
                index.append(entry)
        head = fits.BinTableHDU.from_columns([column(k, [row[k] for row in index]) for k in index[0]])
        path = tmp_path / "archive.fits"
        fits.HDUList([fits.PrimaryHDU(), head, *tables]).writeto(path)
        context = map_fits(path)
        opened.append(context)
        return Archive(context.__enter__(), 1)

    yield make
    for context in opened:
        context.__exit__(None, None, None)


def kernel(image: np.ndarray, centre: tuple[int, int]) -> tuple[str, Sequence[Rows]]:
    ny, nx = image.shape
    row = {"dimensions_x": nx, "dimensions_y": ny, "center_x": centre[0], "center_y": centre[1], "image": image.ravel()}
    return "FixedKernel", [[row]]


def kernel_psf(number: int, name: str = "KernelPsf") -> tuple[str, Sequence[Rows]]:
    return name, [[{"kernel": number, "averagePosition_x": 3.0, "averagePosition_y": 4.0}]]


class TestKernelPsf:
    def test_fixed_kernel_is_normalised(self, archive: Callable[..., Archive]) -> None:
        image = RNG.uniform(1, 2, (5, 7))
        psf = build_psf(archive(kernel_psf(2), kernel(image, (3, 2))), 1)
        assert isinstance(psf, FixedKernelPSF)
        np.testing.assert_allclose(psf.kernels([9.0], [1.0])[0], image / image.sum(), rtol=1e-14)
        assert psf.average_position == (3, 4)

    def test_centre_off_the_middle_is_padded(self, archive: Callable[..., Archive]) -> None:
        image = np.zeros((4, 6))
        image[1, 4] = 3  # the centre
        image[0, 0] = 1
        psf = build_psf(archive(kernel_psf(2), kernel(image, (4, 1))), 1)
        found = psf.kernels([0.0], [0.0])[0]
        ny, nx = found.shape
        assert found[ny // 2, nx // 2] == 0.75
        assert found[ny // 2 - 1, nx // 2 - 4] == 0.25
        assert found.sum() == pytest.approx(1)

    @pytest.mark.parametrize("function", ["Chebyshev1Function2D", "PolynomialFunction2F"])
    def test_linear_combination(self, archive: Callable[..., Archive], function: str) -> None:
        images = RNG.uniform(0, 1, (2, 5, 5))
        coefficients = RNG.uniform(0.5, 1, (2, 6)) + np.array([9, 0, 0, 0, 0, 0])
        box = {"min_x": 0.0, "min_y": 10.0, "max_x": 100.0, "max_y": 90.0}
        extra = box if function.startswith("Cheb") else {}
        size = {"dimensions_x": 5, "dimensions_y": 5, "center_x": 2, "center_y": 2}
        psf = build_psf(
            archive(
                kernel_psf(2, "PcaPsf"),
                (
                    "LinearCombinationKernel",
                    [[{**size, "spatialfunctions": np.array([3, 4]), "components": np.array([5, 6])}]],
                ),
                *[(function, [[{"coefficients": row, **extra}]]) for row in coefficients],
                *[kernel(image, (2, 2)) for image in images],
            ),
            1,
        )
        x, y = 30.0, 70.0
        u, v = ((x - 50) / 50, (y - 50) / 40) if extra else (x, y)
        square = (lambda t: 2 * t * t - 1) if extra else (lambda t: t * t)
        weights = coefficients @ np.array([1, u, v, square(u), u * v, square(v)])
        expected = np.tensordot(weights, images, 1)
        np.testing.assert_allclose(psf.kernels([x], [y])[0], expected / expected.sum(), rtol=1e-12)

    def test_constant_combination(self, archive: Callable[..., Archive]) -> None:
        images = RNG.uniform(0, 1, (2, 3, 3))
        size = {"dimensions_x": 3, "dimensions_y": 3, "center_x": 1, "center_y": 1}
        row = {**size, "amplitudes": np.array([2.0, 5.0]), "components": np.array([3, 4])}
        made = archive(kernel_psf(2), ("LinearCombinationKernel", [[row]]), *[kernel(i, (1, 1)) for i in images])
        expected = 2 * images[0] + 5 * images[1]
        found = build_psf(made, 1).kernels([7.0], [8.0])[0]
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)

    @pytest.mark.parametrize(
        ("others", "words"),
        [
            ([("AnalyticKernel", [[{"dimensions_x": 3}]])], "AnalyticKernel"),
            ([], "no object 2"),
            ([("FixedKernel", [[{"dimensions_x": 3}]])], "no column 'dimensions_y'"),
            ([("FixedKernel", [[]])], "has no data"),
            ([kernel(np.full((3, 3), np.nan), (1, 1))], "normalised"),
        ],
    )
    def test_what_cannot_be_used(self, archive: Callable[..., Archive], others: list[Any], words: str) -> None:
        made = archive(kernel_psf(2), *others)
        with pytest.raises(PsfError, match=words) as caught:
            build_psf(made, 1)
        assert caught.value.path
        assert "KernelPsf" in str(caught.value)
        assert caught.value.fix


def test_gaussian(archive: Callable[..., Archive]) -> None:
    psf = build_psf(archive(("GaussianPsf", [[{"dimensions_x": 9, "dimensions_y": 7, "sigma": 1.5}]])), 1)
    assert isinstance(psf, GaussianPSF)
    assert psf.shape == (7, 9)


def test_psfex_without_variation(archive: Callable[..., Archive]) -> None:
    samples = np.outer(np.hanning(11), np.hanning(11))[None].repeat(1, 0)
    head = {
        "ndim": 0,
        "ngroup": 0,
        "ncoeff": 1,
        "_size_size": 3,
        "_comp_size": samples.size,
        "_context_size": 0,
        "averagePosition_x": 1.0,
        "averagePosition_y": 2.0,
        "_pixstep": 1.0,
    }
    model = {
        "degree": np.array([0]),
        "_size": np.array([11, 11, 1]),
        "_comp": samples.ravel(),
        "_context_first": np.zeros(1),
        "_context_second": np.zeros(1),
    }
    psf = build_psf(archive(("PsfexPsf", [[head], [model]])), 1)
    np.testing.assert_allclose(psf.kernels([5.0], [5.0])[0], samples[0] / samples.sum(), atol=1e-7)


class TestCalibration:
    def test_old_calib(self, archive: Callable[..., Archive]) -> None:
        made = archive(("Calib", [[{"midtime": 0, "exptime": 1.0, "fluxmag0": 1e12, "fluxmag0.err": 0.0}]]))
        calib = afw_objects.build_photo_calib(made, 1, unit="adu")
        assert float(calib.inst_flux(0.0)) == pytest.approx(1e12, rel=1e-14)

    def test_zero_is_uncalibrated(self, archive: Callable[..., Archive]) -> None:
        made = archive(("Calib", [[{"fluxmag0": 0.0}]]))
        with pytest.raises(UncalibratedImageError, match=r"0\.0") as caught:
            afw_objects.build_photo_calib(made, 1, unit="adu")
        assert caught.value.path

    def test_unsupported_field(self, archive: Callable[..., Archive]) -> None:
        made = archive(("TransformBoundedField", [[{"bbox_min_x": 0}]]))
        with pytest.raises(CalibrationError, match="TransformBoundedField"):
            afw_objects.build_field(made, 1)

    def test_product_of_polynomials(self, archive: Callable[..., Archive]) -> None:
        box = {"bbox_min_x": 0, "bbox_min_y": 0, "bbox_max_x": 9, "bbox_max_y": 19}
        made = archive(
            ("ProductBoundedField", [[{"id": 2}, {"id": 3}]]),
            ("ChebyshevBoundedField", [[{"order_x": 1, **box, "coefficients": np.array([2.0, 0.5, 0.25, 0.0])}]]),
            ("ChebyshevBoundedField", [[{"order_x": 0, **box, "coefficients": np.array([3.0])}]]),
        )
        field = afw_objects.build_field(made, 1)
        # Edges of the box, -0.5 to 9.5 and -0.5 to 19.5, are -1 and 1.
        np.testing.assert_allclose(field.evaluate([-0.5, 9.5], [9.5, 19.5]), [3 * 1.5, 3 * 2.75], rtol=1e-13)


def test_wrong_class_and_bad_wcs(archive: Callable[..., Archive]) -> None:
    made = archive(
        ("Polygon", [[{"vertices_x": 0.0, "vertices_y": 1.0}]]),
        ("SkyWcs", [[{"wcs": np.frombuffer(b"1 SkyWcs 0 nonsense", np.uint8)}]]),
    )
    with pytest.raises(FormatError, match="is a Polygon; a SkyWcs or TanWcs was expected"):
        afw_objects.build_wcs(made, 1)
    with pytest.raises(WcsError) as caught:
        afw_objects.build_wcs(made, 2)
    assert caught.value.path
    assert caught.value.hdu == 3
