"""Equal means of the same content: a pickled copy is equal, and whatever is changed is not."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skygraft.content import same_content
from skygraft.errors import PsfError
from skygraft.exposure import DataId, Exposure, VisitInfo
from skygraft.formats import read_exposure
from skygraft.photometry import PhotoCalib
from skygraft.psf import (
    PSF,
    Box,
    CellPSF,
    DoubleGaussianPSF,
    FixedKernelPSF,
    GaussianPSF,
    KernelBasisPSF,
    MoffatPSF,
    PsfexPSF,
    Warp,
    WarpedPSF,
)
from skygraft.testing import make_exposure
from skygraft.wcs import ArrayWcs


def shifted(x: np.ndarray, y: np.ndarray, dx: float) -> tuple[np.ndarray, np.ndarray]:
    return x + dx, y


KERNEL = np.pad(np.ones((3, 3)), 1)
BOX = Box(-0.5, 99.5, -0.5, 99.5)
PSFS: dict[str, tuple[PSF, PSF]] = {
    "gaussian": (GaussianPSF(2.0), GaussianPSF(2.0, pixel_integrated=True)),
    "double gaussian": (DoubleGaussianPSF(2.0, 4.0, 0.1), DoubleGaussianPSF(2.0, 4.0, 0.11)),
    "moffat": (MoffatPSF(4.0), MoffatPSF(4.0, 3.0)),
    "fixed": (FixedKernelPSF(KERNEL), FixedKernelPSF(KERNEL, valid_box=BOX)),
    "basis": (
        KernelBasisPSF([KERNEL], [[1.0, 0.1, 0.0]], chebyshev_box=BOX),
        KernelBasisPSF([KERNEL], [[1.0, 0.1, 0.1]], chebyshev_box=BOX),
    ),
    "psfex": (PsfexPSF([KERNEL], 0, step=0.5), PsfexPSF([KERNEL], 0, step=0.5, convention="lsst")),
    "cells": (CellPSF([[KERNEL]], (0, 0), (10, 10)), CellPSF([[KERNEL]], (1, 0), (10, 10))),
    "warped": tuple(  # type: ignore[dict-item]
        WarpedPSF(GaussianPSF(2.0), functools.partial(shifted, dx=dx), Warp(3), at=(0.0, 0.0)) for dx in (0.5, 0.6)
    ),
}


@pytest.mark.parametrize("name", PSFS)
def test_psfs_of_the_same_content_are_equal(name: str) -> None:
    psf, other = PSFS[name]
    for again in (pickle.loads(pickle.dumps(psf)), copy.deepcopy(psf)):
        assert again == psf
        assert hash(again) == hash(psf)
    psf.kernels([3.0], [4.0])  # what is kept for later is not part of it
    assert pickle.loads(pickle.dumps(psf)) == psf
    assert other != psf
    assert psf != PSFS["moffat" if name != "moffat" else "fixed"][0]
    assert psf != psf.description


def test_exposures_of_the_same_content_are_equal() -> None:
    exposure = make_exposure((12, 15), noise=True)
    exposure.planes["image"].values[3, 4] = np.nan
    again = pickle.loads(pickle.dumps(exposure))
    assert again == exposure
    assert hash(again) == hash(exposure)
    assert exposure != 5


CHANGES: dict[str, dict[str, Any]] = {
    "wcs": {"wcs": make_exposure((12, 15), center=(151.0, 2.0)).wcs},
    "psf": {"psf": MoffatPSF(fwhm=4.1, beta=3.0)},
    "no psf": {"psf": None},
    "calibration": {"photo_calib": PhotoCalib.from_zeropoint(27.1)},
    "data id": {"data_id": DataId(visit=7)},
    "time": {"visit_info": VisitInfo(60000.0, 31.0)},
    "gain": {"gain": 2.5},
    "gain map": {"gain": np.full((12, 15), 2.0)},
    "gain origin": {"gain_origin": "elsewhere"},
    "path": {"path": Path("image.fits")},
    "header": {"header": {"OBJECT": "M 31"}},
    "extra": {"extra": {"no_psf": PsfError("lost")}},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_makes_an_exposure_another_one(what: str) -> None:
    exposure = make_exposure((12, 15))
    other = exposure.replace(**CHANGES[what])
    assert other != exposure
    assert pickle.loads(pickle.dumps(other)) == other


@pytest.mark.parametrize("plane", ["image", "variance", "mask"])
def test_one_pixel_makes_an_exposure_another_one(plane: str) -> None:
    exposure, other = make_exposure((12, 15)), make_exposure((12, 15))
    assert other == exposure
    other.planes[plane].values[2, 3] += 1
    assert other != exposure


def test_shape_place_and_unit_count() -> None:
    exposure = make_exposure((12, 15))
    assert make_exposure((12, 15), xy0=(1, 0), wcs=exposure.wcs) != exposure
    renamed = make_exposure((12, 15))
    renamed.planes["image"].attrs["units"] = "electron"
    assert renamed != exposure
    assert exposure[0:12, 0:14] != exposure


def test_a_wcs_in_the_pixels_of_an_array_is_a_value() -> None:
    wcs = make_exposure((12, 15)).wcs
    one = ArrayWcs(wcs, (3, 4))
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(pickle.loads(pickle.dumps(one))) == hash(one)
    assert one != ArrayWcs(wcs, (4, 4))
    assert one != wcs


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value

    @functools.cached_property
    def twice(self) -> Any:
        return 2 * self.value

    def method(self) -> None: ...


@pytest.mark.parametrize("kind", [Plain, Slotted, PsfError])
def test_objects_without_equality_are_compared_by_what_is_in_them(kind: Any) -> None:
    assert same_content(kind("a"), kind("a"))
    assert not same_content(kind("a"), kind("b"))
    assert same_content([{"k": kind("a")}], [{"k": kind("a")}])
    assert not same_content(kind("a"), "a")


def test_what_is_cached_does_not_count_and_methods_do() -> None:
    one, other = Plain(3), Plain(3)
    assert one.twice == 6
    assert same_content(one, other)
    assert same_content(one.method, other.method)
    assert not same_content(one.method, Plain(4).method)
    assert not same_content(functools.partial(shifted, dx=1.0), functools.partial(shifted, dx=2.0))
    assert not same_content(lambda: 1, lambda: 1)
    assert not same_content(Plain(lambda: 1), Plain(lambda: 1))


def test_arrays_are_equal_with_their_types_and_nan() -> None:
    a = np.array([1.0, np.nan])
    assert same_content(a, a.copy())
    assert not same_content(a, a.astype(np.float32))
    assert not same_content(a, a[:1])
    assert same_content(float("nan"), float("nan"))
    assert same_content(np.array([{"a": a}], dtype=object), np.array([{"a": a.copy()}], dtype=object))
    assert not same_content(np.array(["a"]), np.array(["b"]))
    assert same_content((1, "a", None, {2}), (1, "a", None, {2}))
    assert not same_content([1], (1,))


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "afw_reference/calexp_03_polymap_pca_xy0.fits",
        "afw_reference/calexp_08_tan_warpedpsf.fits",
        "afw_reference/coadd_10_coaddpsf.fits",
        "cfht_849375/calexp-849375-12.fits.fz",
        "rubin/dp1_cell_coadd.fits",
    ],
)
def test_real_images_equal_their_pickled_copies(data_dir: Path, name: str) -> None:
    exposure: Exposure = read_exposure(data_dir / name)
    again = pickle.loads(pickle.dumps(exposure))
    for part in ("planes", "wcs", "psf", "photo_calib", "header", "extra"):
        assert same_content(getattr(again, part), getattr(exposure, part)), part
    assert again == exposure
