"""The planes of an exposure: plain arrays that become a Dataset when one is asked for, and nothing else changes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import xarray as xr

from skygraft.errors import FormatError
from skygraft.exposure import Exposure
from skygraft.planes import Planes, add_mask_plane, make_planes, mask_bit
from skygraft.testing import make_exposure


def pixels(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image, variance = rng.normal(size=(2, 5, 7)).astype(np.float32)
    mask = rng.integers(0, 4, (5, 7)).astype(np.int32)
    return {"image": image, "variance": variance, "mask": mask, "mask_planes": {"BAD": 0, "SAT": 1}, "xy0": (30, 40)}


def exposures() -> dict[str, Exposure]:
    """The same image, with planes of either kind, one of them asked for its Dataset already."""
    wcs = make_exposure((8, 8)).wcs
    made = {
        "plain": Exposure(Planes.from_arrays(**pixels(), units="nJy"), wcs),
        "dataset": Exposure(make_planes(**pixels(), units="nJy"), wcs),
        "asked": Exposure(Planes.from_arrays(**pixels(), units="nJy"), wcs),
    }
    assert isinstance(made["asked"].planes, xr.Dataset)
    return made


@pytest.mark.parametrize("kind", ["plain", "dataset", "asked"])
def test_an_exposure_is_the_same_with_planes_of_either_kind(kind):
    exposure, other = exposures()[kind], exposures()["dataset"]
    assert (exposure.shape, exposure.xy0, exposure.plain.units) == ((5, 7), (30, 40), "nJy")
    assert exposure.mask_planes == {"BAD": 1, "SAT": 2}
    for name in ("image", "variance", "mask"):
        assert getattr(exposure, name).tobytes() == pixels()[name].tobytes()
    part = exposure[42:45, 31:33]
    assert (part.shape, part.xy0) == ((3, 2), (31, 42))
    assert part.planes.identical(other.planes.sel(y=slice(42, 44), x=slice(31, 32)))
    part.image[:] = 0
    assert exposure.image.tobytes() == pixels()["image"].tobytes()
    assert exposure == other
    assert pickle.loads(pickle.dumps(exposure)) == other
    assert copy.deepcopy(exposure).planes.identical(other.planes)
    assert repr(exposure) == repr(other)


def test_one_dataset_is_made_and_is_what_holds_from_then_on():
    exposure = exposures()["plain"]
    shared, planes = exposure.replace(gain=2.0), exposure.planes
    assert planes is exposure.planes is shared.planes
    assert planes["image"].values is exposure.image
    planes["image"] = (("y", "x"), np.zeros((5, 7), np.float32))
    planes["mask"].attrs["flag_meanings"] = "BAD EDGE"
    assert not exposure.image.any()
    assert not shared.image.any()
    assert exposure.mask_planes == {"BAD": 1, "EDGE": 2}
    del planes["variance"]
    assert exposure.variance is None


@pytest.mark.parametrize("kind", ["plain", "dataset", "asked"])
def test_new_arrays_and_mask_planes_leave_the_others_alone(kind):
    exposure = exposures()[kind]
    new = exposure.plain.with_arrays({"mask": np.zeros((5, 7), np.int32)})
    assert add_mask_plane(new, "EDGE") == 2 == add_mask_plane(new, "EDGE")
    assert mask_bit(new, "EDGE") == 2
    assert exposure.mask_planes == {"BAD": 1, "SAT": 2}
    assert new["image"] is exposure.image
    assert exposure.replace(planes=new).mask_planes == {"BAD": 1, "SAT": 2, "EDGE": 4}


def test_planes_of_other_shapes_are_refused():
    with pytest.raises(FormatError, match=r"the mask plane has shape \(2, 2\), the image \(5, 7\)"):
        Planes.from_arrays(pixels()["image"], mask=np.zeros((2, 2)))
    with pytest.raises(FormatError, match="3 dimensions"):
        make_planes(np.zeros((2, 2, 2)))


def test_an_exposure_without_planes_is_refused():
    with pytest.raises(TypeError, match="planes"):
        Exposure()
