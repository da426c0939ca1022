"""Magnitudes to image units and back, and what the image's fluxes are the flux of."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skygraft.display import Rows, html_table
from skygraft.errors import ConfigError, UncalibratedImageError
from skygraft.photometry.fields import SpatialField
from skygraft.photometry.reference import (
    CalibrationAperture,
    CalibrationReference,
    ReferenceCandidate,
    describe_reference,
)
from skygraft.photometry.units import AB_REFERENCE_FLUX_NJY, NJY_PER_NANOMAGGY, canonical_unit

if TYPE_CHECKING:
    from skygraft.wcs.local import BoxLike

__all__ = ["AB_REFERENCE_FLUX_NJY", "NJY_PER_NANOMAGGY", "PhotoCalib", "canonical_unit"]

_SHOWN = 5
"""Largest number of candidates for the reference in `repr`."""


@dataclass(frozen=True, repr=False)
class PhotoCalib:
    """The photometric calibration of one image, ``nJy = njy_per_unit * field(x, y) * image value``.

    AB magnitudes throughout: ``m = 31.4 - 2.5 log10(nJy)``, with the exact zero `AB_REFERENCE_FLUX_NJY`.

    Parameters
    ----------
    njy_per_unit : float
        Nanojansky for one image unit (for a varying calibration, the factor before `field`).
    unit : str
        Unit of the image; see `canonical_unit`.
    field : SpatialField or None
        Dependence on position; None where the calibration is constant.
    reference : CalibrationAperture, PSF_MODEL, TOTAL or None
        What a calibrated flux is the flux of; None where nothing says.
    reference_origin : str
        Where `reference` was found.
    candidates : tuple of ReferenceCandidate
        Everything that was found about the reference, for the record and for later resolution.

    Raises
    ------
    UncalibratedImageError
        If `njy_per_unit` is zero, negative or not finite.
    ConfigError
        If the unit says that the image is calibrated already (nJy, nanomaggy) and `njy_per_unit` or `field`
        would calibrate it a second time, or the unit is a surface brightness.
    """

    njy_per_unit: float
    unit: str = "adu"
    field: SpatialField | None = None
    reference: CalibrationReference | None = None
    reference_origin: str = ""
    candidates: tuple[ReferenceCandidate, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "njy_per_unit", float(self.njy_per_unit))
        object.__setattr__(self, "unit", canonical_unit(self.unit))
        object.__setattr__(self, "candidates", tuple(self.candidates))
        if not self.reference_origin and isinstance(self.reference, CalibrationAperture):
            object.__setattr__(self, "reference_origin", self.reference.origin)
        if not 0 < self.njy_per_unit < math.inf:
            raise UncalibratedImageError(
                f"the photometric calibration is {self.njy_per_unit!r} nJy per {self.unit}; "
                "a positive, finite number is needed",
                fix="Calibrate the image, or give its zeropoint (photo_calib=PhotoCalib.from_zeropoint(...))",
            )
        absolute = {"nJy": 1.0, "nanomaggy": NJY_PER_NANOMAGGY}.get(self.unit)
        if absolute is not None and (
            self.field is not None or not math.isclose(self.njy_per_unit, absolute, rel_tol=1e-3)
        ):
            raise ConfigError(
                f"the image is in {self.unit} already, and the calibration given "
                f"({self.njy_per_unit!r} nJy per unit{', times a field' if self.field else ''}) would be applied to "
                "it a second time",
                fix=f"Use {absolute!r} nJy per unit and no field, or name the unit that the pixels are really in",
            )

    @classmethod
    def from_zeropoint(
        cls,
        zeropoint: float,
        unit: str = "adu",
        *,
        field: SpatialField | None = None,
        reference: CalibrationReference | None = None,
        reference_origin: str = "",
        candidates: tuple[ReferenceCandidate, ...] = (),
    ) -> PhotoCalib:
        """Make a calibration from the AB magnitude of one image unit.

        Parameters
        ----------
        zeropoint : float
            AB magnitude of a source of one image unit.
        unit : str
            Unit of the image; see `canonical_unit`.
        field : SpatialField, optional
            Dependence on position, a factor of the flux of one image unit.
        reference : CalibrationAperture, PSF_MODEL or TOTAL, optional
            What a calibrated flux is the flux of.
        reference_origin : str
            Where `reference` was found.
        candidates : tuple of ReferenceCandidate
            Everything that was found about the reference.

        Returns
        -------
        PhotoCalib

        Raises
        ------
        UncalibratedImageError
            If the zeropoint is not a finite number.
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scale = float(AB_REFERENCE_FLUX_NJY * np.float64(10.0) ** (-0.4 * np.float64(zeropoint)))
        if not (math.isfinite(zeropoint) and 0 < scale < math.inf):
            raise UncalibratedImageError(
                f"the zeropoint is {zeropoint!r}; a finite AB magnitude is needed",
                fix="Give the zeropoint of the image",
            )
        return cls(scale, unit, field, reference, reference_origin, candidates)

    @classmethod
    def from_fluxmag0(
        cls,
        fluxmag0: float,
        unit: str = "adu",
        *,
        reference: CalibrationReference | None = None,
        reference_origin: str = "",
        candidates: tuple[ReferenceCandidate, ...] = (),
    ) -> PhotoCalib:
        """Make a calibration from the image flux of a source of AB magnitude 0 (the FLUXMAG0 keyword).

        Parameters
        ----------
        fluxmag0 : float
            Image units.
        unit : str
            Unit of the image; see `canonical_unit`.
        reference : CalibrationAperture, PSF_MODEL or TOTAL, optional
            What a calibrated flux is the flux of.
        reference_origin : str
            Where `reference` was found.
        candidates : tuple of ReferenceCandidate
            Everything that was found about the reference.

        Returns
        -------
        PhotoCalib

        Raises
        ------
        UncalibratedImageError
            If `fluxmag0` is zero, negative or not finite.
        """
        if not 0 < fluxmag0 < math.inf:
            raise UncalibratedImageError(
                f"the flux of magnitude 0 is {fluxmag0!r}; a positive, finite number is needed",
                key="FLUXMAG0",
                fix="Calibrate the image, or give its zeropoint",
            )
        return cls(AB_REFERENCE_FLUX_NJY / fluxmag0, unit, None, reference, reference_origin, candidates)

    @classmethod
    def nanojansky(
        cls,
        *,
        reference: CalibrationReference | None = None,
        reference_origin: str = "",
        candidates: tuple[ReferenceCandidate, ...] = (),
    ) -> PhotoCalib:
        """Make the calibration of an image whose pixels are nJy.

        Parameters
        ----------
        reference : CalibrationAperture, PSF_MODEL or TOTAL, optional
            What a calibrated flux is the flux of.
        reference_origin : str
            Where `reference` was found.
        candidates : tuple of ReferenceCandidate
            Everything that was found about the reference.

        Returns
        -------
        PhotoCalib
        """
        return cls(1.0, "nJy", None, reference, reference_origin, candidates)

    @classmethod
    def nanomaggies(
        cls,
        *,
        reference: CalibrationReference | None = None,
        reference_origin: str = "",
        candidates: tuple[ReferenceCandidate, ...] = (),
    ) -> PhotoCalib:
        """Make the calibration of an image whose pixels are nanomaggies (zeropoint 22.5).

        Parameters
        ----------
        reference : CalibrationAperture, PSF_MODEL or TOTAL, optional
            What a calibrated flux is the flux of.
        reference_origin : str
            Where `reference` was found.
        candidates : tuple of ReferenceCandidate
            Everything that was found about the reference.

        Returns
        -------
        PhotoCalib
        """
        return cls(NJY_PER_NANOMAGGY, "nanomaggy", None, reference, reference_origin, candidates)

    @property
    def is_constant(self) -> bool:
        """True if the calibration is the same everywhere on the image."""
        return self.field is None

    @property
    def aperture(self) -> CalibrationAperture | None:
        """The reference, where it is an aperture."""
        return self.reference if isinstance(self.reference, CalibrationAperture) else None

    def scale(
        self, x: ArrayLike | None = None, y: ArrayLike | None = None, *, extrapolate: bool = False
    ) -> NDArray[np.float64]:
        """Evaluate nanojansky per image unit at positions; NaN where the calibration is not positive and finite.

        A calibration that varies is made to hold inside a box (`SpatialField.valid_box`), usually that of the image;
        a position outside gets the value at the nearest position of the box, since polynomials run away out there.

        Parameters
        ----------
        x, y : array_like, optional
            Parent pixels; needed where the calibration varies.
        extrapolate : bool
            Outside of the box, take the value that the calibration's formula has there, as LSST's afw does.

        Returns
        -------
        ndarray of float64
            nJy per image unit, of the positions' broadcast shape.

        Raises
        ------
        ConfigError
            If the calibration varies and no position is given.
        """
        if self.field is None:
            shape = () if x is None or y is None else np.broadcast_shapes(np.shape(x), np.shape(y))
            return np.full(shape, self.njy_per_unit)
        if x is None or y is None:
            raise ConfigError(
                "this photometric calibration varies over the image and no position was given",
                fix="Give x and y, in parent pixels",
            )
        box = self.field.valid_box
        if box is not None and not extrapolate:
            x, y = np.clip(np.asarray(x, dtype=float), *box[:2]), np.clip(np.asarray(y, dtype=float), *box[2:])
        values = self.njy_per_unit * self.field.evaluate(x, y)
        good = np.isfinite(values) & (values > 0)
        return np.where(good, values, np.nan)

    def is_extrapolated(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Find the positions that lie outside the box in which the calibration holds; see `scale`.

        Parameters
        ----------
        x, y : array_like
            Parent pixels.

        Returns
        -------
        ndarray of bool
            Of the broadcast shape.
        """
        px, py = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        box = None if self.field is None else self.field.valid_box
        if box is None:
            return np.zeros(px.shape, dtype=np.bool_)
        outside: NDArray[np.bool_] = (px < box[0]) | (px > box[1]) | (py < box[2]) | (py > box[3])
        return outside

    def inst_flux(
        self, mag: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None, *, extrapolate: bool = False
    ) -> NDArray[np.float64]:
        """Convert AB magnitudes to calibrated fluxes in image units.

        Parameters
        ----------
        mag : array_like
            AB magnitudes. NaN gives NaN, +inf gives 0.
        x, y : array_like, optional
            Parent pixels, broadcast against `mag`; needed where the calibration varies.
        extrapolate : bool
            As for `scale`.

        Returns
        -------
        ndarray of float64
            NaN where the calibration has no positive value at a position (see `scale`). A scalar for scalar input.

        Raises
        ------
        ConfigError
            If the calibration varies and no position is given.
        """
        mags = np.asarray(mag, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            njy = AB_REFERENCE_FLUX_NJY * 10.0 ** (-0.4 * mags)
        flux: NDArray[np.float64] = (njy / self.scale(x, y, extrapolate=extrapolate))[()]
        return flux

    def magnitude(
        self, inst_flux: ArrayLike, x: ArrayLike | None = None, y: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Convert fluxes in image units to AB magnitudes.

        Parameters
        ----------
        inst_flux : array_like
            Image units.
        x, y : array_like, optional
            Parent pixels, broadcast against `inst_flux`; needed where the calibration varies.

        Returns
        -------
        ndarray of float64
            NaN for negative flux, +inf for none. A scalar for scalar input.

        Raises
        ------
        ConfigError
            If the calibration varies and no position is given.
        """
        njy = np.asarray(inst_flux, dtype=np.float64) * self.scale(x, y)
        with np.errstate(divide="ignore", invalid="ignore"):
            mag: NDArray[np.float64] = (-2.5 * np.log10(njy / AB_REFERENCE_FLUX_NJY))[()]
        return mag

    def zeropoint(self, x: ArrayLike | None = None, y: ArrayLike | None = None) -> NDArray[np.float64]:
        """Evaluate the AB magnitude of a source of one image unit.

        Parameters
        ----------
        x, y : array_like, optional
            Parent pixels; needed where the calibration varies.

        Returns
        -------
        ndarray of float64
            AB magnitudes. A scalar for scalar input.

        Raises
        ------
        ConfigError
            If the calibration varies and no position is given.
        """
        return self.magnitude(1.0, x, y)

    def with_reference(self, reference: CalibrationReference | None, origin: str = "") -> PhotoCalib:
        """Copy the calibration with another statement of what it is the flux of.

        Parameters
        ----------
        reference : CalibrationAperture, PSF_MODEL, TOTAL or None
            What a calibrated flux is the flux of.
        origin : str
            Where that was found; an aperture's own origin by default.

        Returns
        -------
        PhotoCalib
        """
        return dataclasses.replace(self, reference=reference, reference_origin=origin)

    def rows(self, box: BoxLike | None = None) -> Rows:
        """Describe the calibration for people.

        Parameters
        ----------
        box : Box, optional
            Edges of the image in parent pixels, over which the zeropoint of a calibration that varies is evaluated;
            by default the box in which it holds.

        Returns
        -------
        list of (str, str)
            Label and text of each line.
        """
        rows = [("zeropoint", self._zeropoint_text(box)), ("calibrated to", self.reference_text)]
        return rows + [("candidate", f"{c.value}, {c.level}: {c.origin}") for c in self.candidates[:_SHOWN]]

    @property
    def reference_text(self) -> str:
        """What a calibrated flux is the flux of, for people: radius in pixels and arcsec, and where it was found."""
        if self.reference is None:
            return "unknown: nothing says what a calibrated flux is the flux of"
        if isinstance(self.reference, CalibrationAperture):
            what, origin = f"aperture of {self.reference.text}", self.reference_origin or self.reference.origin
        else:
            what, origin = str(self.reference), self.reference_origin
        return f"{what} ({origin or 'origin unknown'})"

    def _zeropoint_text(self, box: BoxLike | None = None) -> str:
        one = f"AB mag for 1 {self.unit or 'unit'}"
        if self.field is None:
            return f"{float(self.zeropoint()):.4f} {one}"
        edges = (box.x_min, box.x_max, box.y_min, box.y_max) if box is not None else self.field.valid_box
        if edges is None:
            return f"{self.njy_per_unit:.6g} nJy for 1 {self.unit or 'unit'}, times {self.field!r}"
        part = np.array([0.5, 0.0, 1.0, 0.0, 1.0])
        x = edges[0] + part * (edges[1] - edges[0])
        y = edges[2] + np.array([0.5, 0.0, 0.0, 1.0, 1.0]) * (edges[3] - edges[2])
        values = self.zeropoint(x, y)
        finite = values[np.isfinite(values)]
        if not finite.size:
            return "not known anywhere on the image"
        return (
            f"{values[0]:.4f} {one} at the centre, {finite.min():.4f} to {finite.max():.4f} at the corners "
            f"({type(self.field).__name__})"
        )

    def __repr__(self) -> str:
        """Give an expression that makes the calibration again, where its values are plain; one argument a line."""
        lines = [f"njy_per_unit={self.njy_per_unit!r},  # zeropoint {self._zeropoint_text()}", f"unit={self.unit!r},"]
        for f in dataclasses.fields(self)[2:]:
            value = getattr(self, f.name)
            if f.name == "candidates" and value:
                lines += ["candidates=(", *(f"    {candidate!r}," for candidate in value), "),"]
            elif value != f.default:
                lines.append(f"{f.name}={value!r},")
        return "PhotoCalib(\n" + "".join(f"    {line}\n" for line in lines) + ")"

    def _repr_html_(self) -> str:
        return html_table("PhotoCalib", self.rows())

    def describe(self) -> dict[str, Any]:
        """Describe the calibration by JSON types, as records hold it.

        Returns
        -------
        dict
        """
        return {
            "njy_per_unit": self.njy_per_unit,
            "unit": self.unit,
            "zeropoint": float(self.zeropoint()) if self.field is None else None,
            "field": None if self.field is None else self.field.describe(),
            "reference": describe_reference(self.reference, self.reference_origin),
            "candidates": [candidate.describe() for candidate in self.candidates],
        }
