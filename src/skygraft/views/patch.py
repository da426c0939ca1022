"""The images of one patch before and after injection, as one lazy array."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import NDArray

from skygraft.campaign import Campaign
from skygraft.campaign.pairs import read_injected
from skygraft.config.campaign import CampaignConfig
from skygraft.disk import FileIdentity
from skygraft.errors import CampaignError, ConfigError, SkygraftError, SkygraftWarning
from skygraft.formats import ImageCalibration
from skygraft.places import published
from skygraft.planning.reading import read_image, read_image_calibration
from skygraft.records.files import digest
from skygraft.records.plan_file import PlannedImage
from skygraft.skymap import get_skymap
from skygraft.skymap.base import PixelBox, Tract
from skygraft.views.places import as_campaign, done_rows, separation
from skygraft.views.resampling import Interpolation, pixel_map, resample
from skygraft.wcs import array_wcs, footprint

__all__ = ["open_patch"]

type Which = Literal["original", "injected"]

_SAME = 0.01  # pixels
_NO_VISIT = -1


def open_patch(
    campaign: Campaign | str | os.PathLike[str],
    tract: int,
    patch: int,
    *,
    band: str | Sequence[str] | None = None,
    visits: Sequence[int] | None = None,
    resample: bool = False,
    interpolation: Interpolation = "linear",
) -> xr.Dataset:
    """Open the images of a patch before and after injection as one lazy dataset on (image, y, x), backed by Dask.

    Nothing but headers is read before values are asked for; each file is then read once, by one task, however many
    of the variables are computed together. Every image that is done and overlaps the patch with its border is there,
    in order of time.

    Parameters
    ----------
    campaign : Campaign or path-like
        The campaign, its YAML file or its output folder.
    tract, patch : int
        The patch, as numbered by the campaign's sky map.
    band : str or sequence of str, optional
        Only images of these bands.
    visits : sequence of int, optional
        Only images of these visits.
    resample : bool
        Bring images onto the patch's own grid (gnomonic, that of its tract), keeping the sum over a source. Coadds,
        which are on it, are stacked as they are in either case.
    interpolation : {"linear", "cubic"}
        How to resample: bilinear, or by cubic splines.

    Returns
    -------
    xarray.Dataset
        ``original``, ``injected`` and ``difference`` (injected - original), float32 in image units, NaN where an
        image has no pixel. Coordinates along ``image``: ``image_id``, ``visit`` (-1 of coadds), ``detector``,
        ``band``, ``mjd`` (NaN where unknown), ``unit``, ``zeropoint`` (AB magnitude of one image unit in the middle;
        NaN where there is none), ``file`` (the injected image). On the patch's grid, ``x`` and ``y`` are pixels of the
        tract, and ``attrs["wcs"]`` is the FITS header of the array's WCS. On their own grids, images are cut to what
        holds the patch, ``x0`` and ``y0`` are the parent pixel of each array's first one, and ``wcs`` has the FITS
        header of each (empty where FITS cannot hold it, as an AST frame set: ``skygraft.read_exposure(file).wcs``).

    Raises
    ------
    CampaignError
        If no image that is done shows the patch, with these bands and visits.
    ConfigError
        If there is no such interpolation.
    SkyMapError
        If the sky map has no such tract or patch.

    Warns
    -----
    SkygraftWarning
        If an image whose header cannot be read is left out.

    Examples
    --------
    >>> import skygraft
    >>> ds = skygraft.open_patch("campaign.yaml", 9813, 40, band="r")  # doctest: +SKIP
    >>> ds.difference.sum(("y", "x")).compute()  # doctest: +SKIP
    """
    if interpolation not in ("linear", "cubic"):
        raise ConfigError(
            f"the interpolation is {interpolation!r}", key="interpolation", fix="Give 'linear' or 'cubic'"
        )
    campaign = as_campaign(campaign)
    geometry = get_skymap(campaign.config.skymap).tract(tract)
    box = geometry.patch(patch).outer_box
    bands = None if band is None else {band} if isinstance(band, str) else set(band)
    members = [
        _Member.of(image, calibration, geometry, box)
        for image, calibration in _images(campaign, geometry, box, bands, None if visits is None else set(visits))
    ]
    members = sorted((member for member in members if member.window is not None), key=_in_time)
    if not members:
        raise _nothing(campaign, tract, patch, bands, visits)
    on_grid = resample or all(member.offset is not None for member in members)
    shape = box.shape if on_grid else _largest([member.shape for member in members])
    grid = _Grid(geometry.wcs, box.xy0, shape, interpolation) if on_grid else None
    found = _dataset(campaign, members, shape, grid)
    found.attrs |= {"campaign": campaign.config.name, "tract": tract, "patch": patch}
    if on_grid:
        x0, y0 = box.xy0
        found = found.assign_coords(x=x0 + np.arange(shape[1]), y=y0 + np.arange(shape[0]))
        found.attrs["wcs"] = _header(geometry.wcs, box.xy0)
    else:
        origins = np.array([member.origin for member in members])
        found = found.assign_coords(
            x0=("image", origins[:, 0]),
            y0=("image", origins[:, 1]),
            wcs=("image", [_header(m.calibration.wcs, m.origin) for m in members]),
        )
    return found


@dataclass(frozen=True)
class _Grid:
    """The pixels of a patch."""

    wcs: BaseLowLevelWCS
    xy0: tuple[int, int]
    shape: tuple[int, int]
    interpolation: Interpolation


@dataclass(frozen=True)
class _Member:
    """One image of a patch, and what of it is shown."""

    image: PlannedImage
    calibration: ImageCalibration
    window: tuple[slice, slice] | None
    offset: tuple[int, int] | None
    """Tract pixel (x, y) of parent pixel (0, 0), where the image's pixels are those of the tract; else None."""

    @classmethod
    def of(cls, image: PlannedImage, calibration: ImageCalibration, tract: Tract, box: PixelBox) -> _Member:
        (ny, nx), (x0, y0) = calibration.shape, calibration.xy0
        corners = np.array([[x0, y0], [x0 + nx, y0], [x0, y0 + ny], [x0 + nx, y0 + ny]], dtype=float) - 0.5
        shifts = np.column_stack(tract.project(*calibration.wcs.pixel_to_world_values(*corners.T))) - corners
        shift = np.round(shifts.mean(axis=0))
        offset = (int(shift[0]), int(shift[1])) if np.abs(shifts - shift).max() < _SAME else None
        if offset is not None:
            first = [edge - step for edge, step in zip(box.xy0, offset, strict=True)]
            ends = [first[0], first[0] + box.shape[1] - 1, first[1], first[1] + box.shape[0] - 1]
        else:
            outline = footprint(tract.wcs, box, 16)
            x, y = calibration.wcs.world_to_pixel_values(outline[:, 0], outline[:, 1])
            if np.isfinite(x).all() and np.isfinite(y).all():
                low, high = (np.floor([x.min() + 0.5, y.min() + 0.5]), np.ceil([x.max() - 0.5, y.max() - 0.5]))
                ends = [int(low[0]), int(high[0]), int(low[1]), int(high[1])]
            else:  # part of the patch is not on the image's plane
                ends = [x0, x0 + nx - 1, y0, y0 + ny - 1]
        left, right = max(ends[0], x0), min(ends[1], x0 + nx - 1)
        bottom, top = max(ends[2], y0), min(ends[3], y0 + ny - 1)
        inside = left <= right and bottom <= top
        window = (slice(bottom - y0, top + 1 - y0), slice(left - x0, right + 1 - x0)) if inside else None
        return cls(image, calibration, window, offset)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of its window."""
        assert self.window is not None
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def origin(self) -> tuple[int, int]:
        """Parent pixel (x, y) of the first one of its window."""
        assert self.window is not None
        x0, y0 = self.calibration.xy0
        return x0 + self.window[1].start, y0 + self.window[0].start

    @property
    def zeropoint(self) -> float:
        """AB magnitude of one image unit in the middle; NaN where there is none."""
        (ny, nx), (x0, y0) = self.calibration.shape, self.calibration.xy0
        calib = self.calibration.photo_calib
        return np.nan if calib is None else float(calib.zeropoint(x0 + (nx - 1) / 2, y0 + (ny - 1) / 2))


def _images(
    campaign: Campaign, tract: Tract, box: PixelBox, bands: set[str] | None, visits: set[int] | None
) -> Iterator[tuple[PlannedImage, ImageCalibration]]:
    """The images that are done, pass the filters and overlap the box, with what their headers say."""
    plan, rows = done_rows(campaign)
    (ny, nx), (x0, y0) = box.shape, box.xy0
    ra, dec = (float(v) for v in tract.wcs.pixel_to_world_values(x0 + (nx - 1) / 2, y0 + (ny - 1) / 2))
    columns = plan.table(["ra", "dec", "nx", "ny", "pixel_scale"]).take(rows)
    at_ra, at_dec, width, height, scale = (column.to_numpy() for column in columns.columns)
    reach = 0.55 * (np.hypot(width, height) * scale + np.hypot(nx, ny) * tract.pixel_scale)
    for image in plan.images(rows[separation(ra, dec, at_ra, at_dec) <= reach]):
        if (bands is not None and image.band not in bands) or (visits is not None and image.visit not in visits):
            continue
        if not _overlaps(image.polygon, tract, box):
            continue
        try:
            yield image, read_image_calibration(image, campaign.config)
        except (SkygraftError, OSError) as error:
            warnings.warn(f"{image.image_id} is left out: {error}", SkygraftWarning, stacklevel=4)


def _overlaps(polygon: Any, tract: Tract, box: PixelBox) -> bool:
    """Whether an outline and a box of the tract have an area in common (clipping of Sutherland & Hodgman 1974)."""
    points = np.asarray(polygon, dtype=float)
    shape = np.column_stack(tract.project(points[:, 0], points[:, 1]))
    if not np.isfinite(shape).all():
        return True  # which the image's own WCS will tell
    for axis, edge, sign in ((0, box.x_min, 1), (0, box.x_max, -1), (1, box.y_min, 1), (1, box.y_max, -1)):
        kept: list[NDArray[np.float64]] = []
        for here, there in zip(shape, np.roll(shape, -1, axis=0), strict=True):
            a, b = sign * (here[axis] - edge), sign * (there[axis] - edge)
            if a > 0:
                kept.append(here)
            if a * b < 0:
                kept.append(here + a / (a - b) * (there - here))
        if not kept:
            return False
        shape = np.array(kept)
    return True


def _nothing(
    campaign: Campaign, tract: int, patch: int, bands: set[str] | None, visits: Sequence[int] | None
) -> CampaignError:
    plan, rows = done_rows(campaign)
    table = plan.table(["tract", "patch", "band"]).take(rows)
    homes = list(dict.fromkeys(zip(table["tract"].to_pylist(), table["patch"].to_pylist(), strict=True)))
    some = ", ".join(f"({t}, {p})" for t, p in homes[:5]) + (", ..." if len(homes) > 5 else "")
    wanted = "".join(
        f" with {name} {', '.join(map(str, sorted(values)))}" for name, values in (("band", bands), ("visit", visits))
        if values is not None
    )  # fmt: skip
    there = ", ".join(sorted({str(b) for b in table["band"].to_pylist()}))
    return CampaignError(
        f"no image that is done shows patch {patch} of tract {tract}{wanted}",
        path=campaign.layout.root,
        key="patch",
        fix=f"The home patches (tract, patch) of images that are done are {some}; their bands are {there}",
    )


def _in_time(member: _Member) -> tuple[float, str]:
    mjd = member.image.mjd
    return np.inf if mjd is None else mjd, member.image.image_id


def _largest(shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return max(ny for ny, _ in shapes), max(nx for _, nx in shapes)


def _dataset(campaign: Campaign, members: Sequence[_Member], shape: tuple[int, int], grid: _Grid | None) -> xr.Dataset:
    """The lazy arrays, and what is known of each image."""
    from dask.array import from_delayed, stack
    from dask.delayed import delayed

    def lazy(which: Which) -> Any:
        arrays = []
        for member in members:
            name = f"skygraft-{which}-{_token(campaign, member, shape, grid)}"
            # Bound before: a task's own arguments would be searched for other tasks, field by field.
            read = functools.partial(_pixels, which, campaign.config, member, shape, grid)
            arrays.append(from_delayed(delayed(read)(dask_key_name=name), shape, dtype=np.float32))
        return stack(arrays)

    original, injected = lazy("original"), lazy("injected")
    images = [member.image for member in members]
    units = {member.calibration.unit for member in members}
    attributes = {"units": units.pop() if len(units) == 1 else "see the coordinate unit"}
    return xr.Dataset(
        {
            "original": (("image", "y", "x"), original, attributes),
            "injected": (("image", "y", "x"), injected, attributes),
            "difference": (("image", "y", "x"), injected - original, attributes),
        },
        coords={
            "image_id": ("image", [image.image_id for image in images]),
            "visit": ("image", [_NO_VISIT if image.visit is None else image.visit for image in images]),
            "detector": ("image", [image.detector or "" for image in images]),
            "band": ("image", [image.band or "" for image in images]),
            "mjd": ("image", [np.nan if image.mjd is None else image.mjd for image in images], {"units": "d"}),
            "file": ("image", [str(campaign.layout.images / image.output) for image in images]),
            "unit": ("image", [member.calibration.unit for member in members]),
            "zeropoint": ("image", [member.zeropoint for member in members], {"units": "AB mag"}),
        },
    )


def _token(campaign: Campaign, member: _Member, shape: tuple[int, int], grid: _Grid | None) -> str:
    """Name of what a task gives: also of the file, which may be made again while a cluster remembers it."""
    file = FileIdentity.find(published(campaign.layout.images / member.image.output))
    where = [str(member.window), shape, "" if grid is None else [str(grid.wcs), grid.xy0, grid.interpolation]]
    return digest([str(campaign.layout.root), member.image.image_id, str(file), where])[:32]


def _pixels(
    which: Which, config: CampaignConfig, member: _Member, shape: tuple[int, int], grid: _Grid | None
) -> NDArray[np.float32]:
    """Read one image, and bring it onto the grid of the dataset: what a task does."""
    exposure = read_image(member.image, config) if which == "original" else read_injected(config, member.image)
    found = np.full(shape, np.nan, dtype=np.float32)
    if grid is not None and member.offset is None:
        where = pixel_map(grid.wcs, grid.xy0, grid.shape, exposure.wcs)
        return resample(exposure.image, exposure.xy0, where, interpolation=grid.interpolation)
    assert member.window is not None
    pixels = exposure.image[member.window]
    left = low = 0
    if grid is not None and member.offset is not None:
        left, low = (np.add(member.origin, member.offset) - grid.xy0).tolist()
    found[low : low + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return found


def _header(wcs: BaseLowLevelWCS, xy0: tuple[int, int]) -> str:
    """FITS header of the WCS of an array; empty where FITS cannot hold it."""
    found = array_wcs(wcs, xy0)
    return str(found.to_header_string(relax=True)) if hasattr(found, "to_header_string") else ""
