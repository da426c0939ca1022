"""Warped and coadded PSFs against a plain evaluation in double precision, and where inputs begin and end."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skygraft.errors import ConfigError, PsfError
from skygraft.psf import Box, CoaddInput, CoaddPSF, FixedKernelPSF, GaussianPSF, MoffatPSF, Warp, WarpedPSF, check_psf
from skygraft.wcs import AstMapping, FitsWcs

BOX = Box(-0.5, 399.5, -0.5, 299.5)


def lanczos(x: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    return np.where(np.abs(x) < order, np.sinc(x) * np.sinc(x / order), 0.0)


def moved(kernel: NDArray[np.float64], dx: float, dy: float) -> NDArray[np.float64]:
    """A kernel moved by Lanczos-5, as a product of matrices."""

    def matrix(n: int, shift: float) -> NDArray[np.float64]:
        offsets = np.arange(-40, n + 40)[None] - (np.arange(n)[:, None] - shift)
        weights = lanczos(offsets, 5)
        return (weights / weights.sum(axis=1, keepdims=True))[:, 40:-40]

    ny, nx = kernel.shape
    return matrix(ny, dy) @ kernel @ matrix(nx, dx).T


def brute_force(
    kernel: NDArray[np.float64],
    matrix: NDArray[np.float64],
    source: NDArray[np.float64],
    shape: tuple[int, int],
    order: int,
) -> NDArray[np.float64]:
    """The kernel of a warped PSF whose middle comes from `source` on its own pixels, of `shape` pixels."""
    whole = np.floor(source + 0.5)
    image = moved(kernel, *(source - whole))
    ny, nx = image.shape
    rows, columns = np.arange(ny) - ny // 2, np.arange(nx) - nx // 2
    out = np.zeros(shape)
    up, across = shape[0] // 2, shape[1] // 2
    for j in range(-up, up + 1):
        for i in range(-across, across + 1):
            x, y = matrix @ [i, j] + source - whole
            far = max(abs(np.floor(v) + 0.5) - n / 2 for v, n in ((x, nx), (y, ny)))
            if far <= 1.01:  # weights within the zeros of order + 1 around the image
                wx, wy = (lanczos(np.arange(-80, 81) - (v - np.floor(v)), order).sum() for v in (x, y))
                out[j + up, i + across] = lanczos(rows - y, order) / wy @ image @ lanczos(columns - x, order) / wx
    return out / out.sum()


def affine_mapping(matrix: NDArray[np.float64], shift: tuple[float, float]) -> AstMapping:
    """Positions (x, y) to matrix @ (x, y) + shift, from a dump as AST writes it."""
    from starlink import Ast

    made = Ast.CmpMap(Ast.MatrixMap(matrix), Ast.ShiftMap(list(shift)), True)
    lines: list[str] = []

    class Sink:
        def astsink(self, line: str) -> None:
            lines.append(line)

    Ast.Channel(None, Sink()).write(made)
    return AstMapping("\n".join(lines))


class TestWarped:
    matrix = np.array([[0.98, 0.05], [-0.04, 1.03]])

    def warped(self, psf: Any = None, **changes: Any) -> WarpedPSF:
        mapping = affine_mapping(self.matrix, (3.3, -2.1))
        given = {
            "psf": psf or GaussianPSF(1.8, shape=(25, 25)),
            "mapping": mapping,
            "warp": Warp(3),
            "at": (50.0, 50.0),
        }
        return WarpedPSF(**(given | changes))

    @pytest.mark.parametrize("order", [3, 5])
    def test_against_brute_force(self, order: int) -> None:
        psf = self.warped(MoffatPSF(4.0, 3.0, shape=(31, 31)), warp=Warp(order))
        x, y = np.array([40.2, 71.0, 12.49]), np.array([33.7, 20.0, 90.51])
        kernel = psf.psf.kernels([0.0], [0.0])[0]
        for found, centre in zip(psf.kernels(x, y), np.floor(np.stack([x, y], 1) + 0.5), strict=True):
            source = self.matrix @ centre + [3.3, -2.1]
            expected = brute_force(kernel, self.matrix, source, psf.shape, order)
            # The kernel ends where half its own size is mapped to: what is beyond is light of the edge only.
            np.testing.assert_allclose(found, expected, atol=2e-4 * expected.max())
            core = (slice(6, -6), slice(6, -6))
            np.testing.assert_allclose(found[core] / found.max(), expected[core] / expected.max(), atol=1e-9)

    def test_table_rounds_the_phase(self) -> None:
        x, y = np.full(3, 50.2), np.array([50.4, 60.0, 70.9])
        exact = self.warped().kernels(x, y)
        fine = self.warped(warp=Warp(3, 100_000)).kernels(x, y)
        coarse = self.warped(warp=Warp(3, 100)).kernels(x, y)
        assert np.abs(fine - exact).max() < 1e-5 * exact.max()
        assert 1e-4 < np.abs(coarse - exact).max() / exact.max() < 1e-2

    def test_contract(self) -> None:
        check_psf(self.warped(warp=Warp(3, 1000)), [10.0, 33.3, 80.7], [20.2, 5.0, 61.4])

    def test_a_mapping_that_folds(self) -> None:
        flat = affine_mapping(np.array([[1.0, 0.0], [0.0, 1.0]]), (0.0, 0.0))
        psf = self.warped(mapping=flat)
        psf.mapping = lambda x, y: (x, 0 * y)
        with pytest.raises(PsfError, match="no inverse at position"):
            psf.kernels([5.0], [6.0])

    @pytest.mark.parametrize(("order", "size"), [(0, 0), (99, 0), (3, -1)])
    def test_refused_warps(self, order: int, size: int) -> None:
        with pytest.raises(ConfigError, match="Lanczos"):
            Warp(order, size)


def wcs(rotation: float, x: float, y: float) -> FitsWcs:
    """0.2 arcsec pixels, North `rotation` degrees from the y axis, (150, 2) degrees at (x, y)."""
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    return FitsWcs.tan(150.0, 2.0, crpix=(x, y), cd=np.array([[-c, s], [s, c]]) * 0.2 / 3600)


class TestCoadd:
    def coadd(self, *inputs: CoaddInput, **changes: Any) -> CoaddPSF:
        return CoaddPSF(inputs, wcs(0, 200, 150), changes.pop("warp", Warp(3)), BOX, **changes)

    def one(self, sigma: float, weight: float, x: float = 200.0, **changes: Any) -> CoaddInput:
        given = {"psf": GaussianPSF(sigma, shape=(25, 25)), "wcs": wcs(0, x, 150), "box": BOX, "weight": weight}
        return CoaddInput(**(given | changes))

    def test_weighted_mean_of_aligned_inputs(self) -> None:
        """Where WCS agree, whole pixels apart, nothing is resampled: the mean has a closed form."""
        psf = self.coadd(self.one(1.5, 3.0), self.one(2.5, 1.0, x=210.0))
        found = psf.kernels([200.0], [150.0])[0]
        narrow, wide = (GaussianPSF(s, shape=(25, 25)).kernels([0.0], [0.0])[0] for s in (1.5, 2.5))
        n = (found.shape[0] - 25) // 2
        assert psf.shape == (27, 27)
        np.testing.assert_allclose(found[n:-n, n:-n], (3 * narrow + wide) / 4, atol=1e-7)

    def test_inputs_end_where_they_end(self) -> None:
        """Of three inputs one covers columns below 100, one all, and one what lies inside a triangle."""
        triangle = np.array([[300.0, 0.0], [399.0, 0.0], [399.0, 299.0]])
        left = self.one(1.5, 1.0, box=Box(-0.5, 99.5, -0.5, 299.5), name="left")
        corner = self.one(2.0, 1.0, polygon=triangle)
        everywhere = self.one(2.5, 1.0, box=Box(-0.5, 349.5, -0.5, 299.5))
        psf = self.coadd(left, everywhere, corner)
        x = np.array([50.0, 99.4, 99.6, 200.0, 340.0, 340.0, 380.0, 390.0])
        y = np.array([50.0, 50.0, 50.0, 200.0, 20.0, 290.0, 290.0, 20.0])
        expected = [[1, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
        np.testing.assert_array_equal(psf.inputs_at(x, y), np.array(expected, bool))
        np.testing.assert_array_equal(psf.defined(x, y), [True] * 6 + [False, True])
        before, after = psf.kernels([99.4, 99.6], [50.0, 50.0])
        assert before.max() > 1.5 * after.max()
        with pytest.raises(PsfError, match=r"none of the coadd's 3 inputs holds position \(380\.0, 290\.0\)"):
            psf.kernels(x, y)

    def test_rotated_inputs_keep_their_orientation(self) -> None:
        """An input turned by 30 degrees shows its elongated PSF turned back."""
        y, x = np.mgrid[-20:21, -20:21]
        elongated = FixedKernelPSF(np.exp(-0.5 * ((x / 4.0) ** 2 + (y / 2.0) ** 2)), normalize=True)
        turned = self.one(1.0, 1.0, psf=elongated, wcs=wcs(30, 200, 150))
        psf = self.coadd(turned)
        kernel = psf.kernels([200.0], [150.0])[0]
        ny, nx = kernel.shape
        v, u = np.mgrid[-(ny // 2) : ny // 2 + 1, -(nx // 2) : nx // 2 + 1]
        xx, yy, xy = ((kernel * m).sum() for m in (u * u, v * v, u * v))
        sky = turned.wcs.world_to_pixel_values(*wcs(0, 200, 150).pixel_to_world_values([200.0, 210.0], [150.0, 150.0]))
        ahead = np.degrees(np.arctan2(np.diff(sky[1]), np.diff(sky[0])))[0]  # of the coadd's x axis, on the input
        assert np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) == pytest.approx(-ahead, abs=0.02)
        assert np.linalg.eigvalsh([[xx, xy], [xy, yy]])[::-1] == pytest.approx([16.0, 4.0], rel=2e-3)

    def test_contract(self) -> None:
        psf = self.coadd(self.one(1.5, 3.0), self.one(2.5, 1.0, wcs=wcs(5, 190.3, 160.2)), warp=Warp(3, 10_000))
        check_psf(psf, [150.0, 233.3, 180.7], [120.2, 175.0, 161.4])
        twin = pickle.loads(pickle.dumps(psf))
        assert twin.description == psf.description

    def test_refused(self) -> None:
        with pytest.raises(ConfigError, match="at least one input"):
            self.coadd()
        for weight in (0.0, -1.0, np.nan, np.inf):
            with pytest.raises(ConfigError, match="input 7 has the weight"):
                self.coadd(self.one(2.0, weight, name="7"))
