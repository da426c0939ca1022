"""Headers with every kind of WCS, and where their pixels lie: closed forms and direct sums, in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.polynomial import chebyshev, legendre, polynomial

RA0, DEC0 = 150.0, 2.0
SIZE = 2000
SCALE = 5e-5
CRPIX = (1000.0, 900.0)
CD = np.array([[-SCALE, 1e-6], [2e-6, SCALE]])

SIP = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-6, "A_1_1": 1e-6, "B_0_2": 1e-6}
SCAMP = {"PV1_0": 0.001, "PV1_1": 1.0, "PV1_2": 0.001, "PV1_4": 0.01, "PV1_5": 0.002}
SCAMP |= {"PV2_0": 0.0005, "PV2_1": 1.0, "PV2_2": 0.002, "PV2_5": 0.003}


def cards(**changes: Any) -> dict[str, Any]:
    """The reference, a TAN projection and no matrix; a card given as None is left out."""
    plain = {
        "NAXIS": 2,
        "NAXIS1": SIZE,
        "NAXIS2": SIZE,
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": RA0,
        "CRVAL2": DEC0,
        "CRPIX1": CRPIX[0],
        "CRPIX2": CRPIX[1],
    }
    return {key: value for key, value in (plain | changes).items() if value is not None}


def cd_cards(matrix: np.ndarray = CD) -> dict[str, float]:
    """A matrix as CD cards."""
    return {f"CD{i + 1}_{j + 1}": float(matrix[i, j]) for i in range(2) for j in range(2)}


def header(*parts: dict[str, Any]) -> fits.Header:
    """A header of all the cards."""
    made = fits.Header()
    for part in parts:
        for key, value in part.items():
            made[key] = value
    return made


def raw_header(*lines: str) -> fits.Header:
    """A header of cards as they are written in a file."""
    return fits.Header.fromstring("".join(line.ljust(80) for line in lines))


def pixels(n: int = 200) -> np.ndarray:
    """The corners and other pixels, 0-based, shape (2, n)."""
    corners = [[0, SIZE - 1, SIZE - 1, 0], [0, 0, SIZE - 1, SIZE - 1]]
    return np.hstack([corners, np.random.default_rng(1).uniform(0, SIZE - 1, (2, n - 4))])


def plane(points: np.ndarray, matrix: np.ndarray = CD) -> np.ndarray:
    """Intermediate world coordinates of 0-based pixels, degrees, shape (2, n)."""
    return matrix @ (points + 1 - np.array(CRPIX)[:, None])


def gnomonic(xi: np.ndarray, eta: np.ndarray, ra0: float = RA0, dec0: float = DEC0) -> np.ndarray:
    """Right ascension and declination of points of the tangent plane, all in degrees."""
    xi, eta, a0, d0 = (np.radians(v) for v in (xi, eta, ra0, dec0))
    depth = np.cos(d0) - eta * np.sin(d0)
    ra, dec = a0 + np.arctan2(xi, depth), np.arctan2(np.sin(d0) + eta * np.cos(d0), np.hypot(xi, depth))
    return np.array([np.degrees(ra) % 360, np.degrees(dec)])


def zenithal(xi: np.ndarray, eta: np.ndarray, radial: Sequence[float]) -> np.ndarray:
    """The same for a zenithal polynomial projection with coefficients `radial`."""
    r, azimuth = np.radians(np.hypot(xi, eta)), np.arctan2(xi, eta)
    distance = r.copy()
    for _ in range(50):
        distance -= (polynomial.polyval(distance, radial) - r) / polynomial.polyval(
            distance, polynomial.polyder(radial)
        )
    d0 = np.radians(DEC0)
    dec = np.arcsin(np.cos(distance) * np.sin(d0) + np.sin(distance) * np.cos(d0) * np.cos(azimuth))
    ra = np.arctan2(
        np.sin(distance) * np.sin(azimuth),
        np.cos(distance) * np.cos(d0) - np.sin(distance) * np.sin(d0) * np.cos(azimuth),
    )
    return np.array([(RA0 + np.degrees(ra)) % 360, np.degrees(dec)])


def on_the_sky(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest angle between two sets of directions, degrees."""
    vectors = []
    for ra, dec in (np.radians(found), np.radians(expected)):
        vectors.append([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    return float(np.degrees(np.linalg.norm(np.subtract(*vectors), axis=0).max()))


class Surface:
    """A surface of IRAF: random coefficients of a kind, its numbers for a header, and its value term by term.

    Kind 1, 2, 3: Chebyshev, Legendre, powers. Cross-terms 0, 1, 2: none, full, half.
    """

    def __init__(self, kind: int, orders: tuple[int, int], cross: int, seed: int, size: float = 2e-4) -> None:
        rng = np.random.default_rng(seed)
        self.kind, self.orders, self.cross = kind, orders, cross
        self.range = (-0.081, 0.077, -0.079, 0.083)
        nx, ny = orders
        self.terms = []
        for j in range(ny):
            left = {0: nx if j == 0 else 1, 1: nx, 2: min(nx, max(nx, ny) - j)}[cross]
            for i in range(left):
                unit = 0.08 ** (i + j) if kind == 3 else 1.0
                self.terms.append((i, j, size * rng.normal() / unit / (1 + i + j) ** 2))

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if self.kind != 3:
            x0, x1, y0, y1 = self.range
            x, y = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
        basis = {1: chebyshev.Chebyshev, 2: legendre.Legendre, 3: polynomial.Polynomial}[self.kind].basis
        return sum(value * basis(i)(x) * basis(j)(y) for i, j, value in self.terms)

    def text(self) -> str:
        """Its numbers, as a header has them."""
        head = f"{self.kind}. {self.orders[0]}. {self.orders[1]}. {self.cross}. "
        return head + " ".join(repr(float(v)) for v in (*self.range, *(value for *_, value in self.terms)))


def wat(axis: int, text: str, width: int = 68) -> dict[str, str]:
    """WAT cards of a text; astropy loses blanks at their ends."""
    return {f"WAT{axis}_{i + 1:03}": text[j : j + width] for i, j in enumerate(range(0, len(text), width))}


def iraf_cards(code: str, lngcor: Surface, latcor: Surface, radial: str = "", axes: tuple[int, int] = (1, 2)) -> dict:
    """Cards of a TNX or ZPX projection, its longitude and latitude on `axes`."""
    lng, lat = axes
    matrix = {f"CD{axes[i]}_{j + 1}": float(CD[i, j]) for i in range(2) for j in range(2)}
    made = cards() | matrix | {f"CRVAL{lng}": RA0, f"CRVAL{lat}": DEC0, "WAT0_001": "system=image"}
    made |= {f"CTYPE{lng}": f"RA---{code}", f"CTYPE{lat}": f"DEC--{code}"}
    made |= wat(lng, f'wtype={code.lower()} axtype=ra {radial}lngcor = "{lngcor.text()} "')
    return made | wat(lat, f'wtype={code.lower()} axtype=dec {radial}latcor = "{latcor.text()} "')


PLATE: dict[str, Any] = {
    **{"PLTRAH": 10, "PLTRAM": 1, "PLTRAS": 0.0, "PLTDECSN": "+", "PLTDECD": 2, "PLTDECM": 0, "PLTDECS": 0.0},
    **{"CNPIX1": 6000, "CNPIX2": 7000, "PPO3": 177500.0, "PPO6": 177500.0},
    **{"XPIXELSZ": 25.28445, "YPIXELSZ": 25.28445, "PLTSCALE": 67.2, "RADESYS": "ICRS"},
}
PLATE |= {f"AMD{axis}{i}": 0.0 for axis in "XY" for i in range(1, 21)}
for _axis, _values in {
    "X": (67.22, 0.02, 0.7, -1.5e-5, 2e-5, 1e-5, 3e-6, 1.9e-6, -2e-7, 2.1e-6, 1e-7, 1e-7),
    "Y": (67.23, -0.03, 1.7, 2.5e-5, -2e-5, 1e-5, -2e-6, 2e-6, 2e-7, 1.9e-6, 1e-7, 2e-7),
}.items():
    PLATE |= {f"AMD{_axis}{_i}": _value for _i, _value in enumerate(_values, 1)}


def plate_sky(points: np.ndarray) -> np.ndarray:
    """Sky positions of 0-based pixels by the plate model of the Guide Star Catalog."""
    x = (PLATE["PPO3"] - (points[0] + PLATE["CNPIX1"] + 0.5) * PLATE["XPIXELSZ"]) / 1000
    y = ((points[1] + PLATE["CNPIX2"] + 0.5) * PLATE["YPIXELSZ"] - PLATE["PPO6"]) / 1000

    def model(letter: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        a = [0.0] + [PLATE[f"AMD{letter}{i}"] for i in range(1, 13)]
        rr = p**2 + q**2
        return (
            (a[1] * p + a[2] * q + a[3] + a[4] * p**2 + a[5] * p * q + a[6] * q**2 + a[7] * rr)
            + (a[8] * p**3 + a[9] * p**2 * q + a[10] * p * q**2 + a[11] * q**3 + a[12] * p * rr)
        ) / 3600

    return gnomonic(model("X", x, y), model("Y", y, x), 15 * (10 + 1 / 60), 2.0)
