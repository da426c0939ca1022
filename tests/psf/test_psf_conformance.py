"""Every kind of PSF keeps the contract of `PSF`, whatever its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skygraft.psf import (
    PSF,
    Box,
    DoubleGaussianPSF,
    FixedKernelPSF,
    GaussianPSF,
    KernelBasisPSF,
    LinearPSF,
    MoffatPSF,
    PsfexPSF,
    check_psf,
)

odd = st.integers(0, 12).map(lambda n: 2 * n + 1)
shapes = st.tuples(odd, odd)
width = st.floats(0.5, 6.0)
seeds = st.integers(0, 2**32 - 1)
boxes = st.none() | st.builds(lambda x, y: Box(x, x + 900, y, y + 700), st.floats(-50, 50), st.floats(-50, 50))
n_positions = st.integers(1, 40)


def images(rng: np.random.Generator, n: int, shape: tuple[int, int]) -> np.ndarray:
    """A positive image and small variations of it."""
    stack = rng.normal(scale=1e-4, size=(n, *shape))
    stack[0] = rng.uniform(0.5, 1.0, size=shape)
    return stack


@st.composite
def psfs(draw: st.DrawFn) -> LinearPSF:
    kind = draw(st.sampled_from(["gaussian", "double", "moffat", "fixed", "poly", "cheb", "psfex", "lsst"]))
    rng = np.random.default_rng(draw(seeds))
    shape = draw(shapes)
    match kind:
        case "gaussian":
            return GaussianPSF(draw(width), shape=draw(st.none() | shapes), pixel_integrated=draw(st.booleans()))
        case "double":
            return DoubleGaussianPSF(
                draw(width), draw(width), draw(st.floats(0, 1)), shape=shape, pixel_integrated=draw(st.booleans())
            )
        case "moffat":
            return MoffatPSF(draw(width), draw(st.floats(1.5, 6)), shape=shape, pixel_integrated=draw(st.booleans()))
        case "fixed":
            return FixedKernelPSF(images(rng, 1, shape)[0], normalize=draw(st.booleans()), valid_box=draw(boxes))
        case "poly" | "cheb":
            n, degree = draw(st.integers(1, 5)), draw(st.integers(0, 4))
            terms = np.concatenate([np.full(d + 1, 4096.0**-d) for d in range(degree + 1)])
            table = rng.normal(scale=0.02, size=(n, terms.size)) * terms
            table[:, 0] = 1
            box = Box(-10.0, 5000.0, 5.0, 4000.0) if kind == "cheb" else None
            return KernelBasisPSF(
                images(rng, n, shape), table, chebyshev_box=box, normalize=draw(st.booleans()),
                valid_box=draw(boxes), average_position=draw(st.none() | st.just((12.5, 3.0))),
            )  # fmt: skip
        case _:
            degree = draw(st.integers(0, 3))
            size = draw(st.tuples(st.integers(12, 40), st.integers(12, 40)))
            return PsfexPSF(
                images(rng, (degree + 1) * (degree + 2) // 2, size), degree, (1024.0, 2048.0), (2048.0, 4096.0),
                draw(st.floats(0.25, 1.5)), convention="lsst" if kind == "lsst" else "psfex", valid_box=draw(boxes),
            )  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(psfs(), n_positions, seeds)
def test_every_kind_keeps_the_contract(psf: LinearPSF, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check_psf(psf, rng.uniform(0, 2048, n), rng.uniform(0, 4096, n))


@settings(max_examples=60, deadline=None)
@given(psfs(), n_positions, seeds)
def test_kernels_are_coefficients_times_basis(psf: LinearPSF, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 2048, n), rng.uniform(0, 4096, n)
    expected = np.einsum("nb,byx->nyx", psf.coefficients(x, y), psf.basis)
    single = isinstance(psf, PsfexPSF) and psf.convention == "lsst"  # follows a code that works in float32
    rtol, atol = (5e-6, 1e-6) if single else (1e-12, 1e-15)
    np.testing.assert_allclose(psf.kernels(x, y), expected, rtol=rtol, atol=atol * np.abs(psf.basis).max())
    with pytest.raises(ValueError, match="read-only"):
        psf.basis[0] = 0


class Wrong(PSF):
    """A PSF that breaks the contract in one way at a time."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.calls = 0
        self.image = GaussianPSF(1.5, shape=(9, 9)).kernels(0, 0)

    @property
    def shape(self) -> tuple[int, int]:
        return (8, 9) if self.how == "even" else (9, 9)

    @property
    def valid_box(self) -> Box | None:
        return (0, 1, 0, 1) if self.how == "box" else None  # type: ignore[return-value]

    def kernels(self, x, y):  # type: ignore[no-untyped-def]
        self.calls += 1
        n = np.atleast_1d(x).size
        if self.how == "alias":
            return np.broadcast_to(self.image, (n, 9, 9)) if n != 1 else self.image
        out = np.repeat(self.image, n, axis=0)
        match self.how:
            case "dtype":
                return out.astype(np.float32)
            case "batch":
                return out * (1 + 1e-15 * n)
            case "state":
                return out * (1 + 1e-15 * self.calls)
            case "empty":
                return out if n else out.reshape(0)
            case "dark":
                return out * 0
            case "nan":
                return out * np.nan
        return out

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        if self.how == "pickle":
            state["image"] = self.image * 1.1
        return state

    def flux_outside(self, x, y):  # type: ignore[no-untyped-def]
        return 0.0 if self.how == "outside" else super().flux_outside(x, y)


HOW = ["even", "dtype", "batch", "state", "empty", "dark", "nan", "alias", "pickle", "outside", "box"]


@pytest.mark.parametrize("how", HOW)
def test_the_suite_notices(how: str) -> None:
    check_psf(Wrong("nothing"), [1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    n = 1 if how == "alias" else 3
    with pytest.raises(AssertionError):
        check_psf(Wrong(how), np.arange(n) + 1.0, np.arange(n) + 4.0)
