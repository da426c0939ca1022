"""Objects on closed orbits seen from a moving and turning Earth: their directions at any time, in float64."""

from __future__ import annotations

import numpy as np

_OBLIQUITY = np.radians(23.4393)


def direction(mjd, a=2.6, start=0.3, inclination=8.0, observer=4.26e-5, node=0.0):
    """Unit vectors, shape (N, 3), to an object at `a` au on a circle, from a place on the Earth `observer` au out."""
    t = (np.asarray(mjd, dtype=float) - 60000.0) * 2 * np.pi / 365.25
    own = start + t / a**1.5
    i = np.radians(inclination)
    body = a * np.stack([np.cos(own), np.sin(own) * np.cos(i), np.sin(own) * np.sin(i)], axis=-1)
    body = _about_z(body, np.radians(node))
    earth = np.stack([np.cos(t), np.sin(t), np.zeros_like(t)], axis=-1)
    spin = 2 * np.pi * 1.0027379 * np.asarray(mjd, dtype=float)
    place = observer * np.stack([np.cos(spin), np.sin(spin), np.zeros_like(spin)], axis=-1)
    seen = _to_equator(body - earth) - place
    return seen / np.linalg.norm(seen, axis=-1, keepdims=True)


def _about_z(v, angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1], v[..., 2]], axis=-1)


def _to_equator(v):
    c, s = np.cos(_OBLIQUITY), np.sin(_OBLIQUITY)
    return np.stack([v[..., 0], c * v[..., 1] - s * v[..., 2], s * v[..., 1] + c * v[..., 2]], axis=-1)


def turned(vectors, pole):
    """The same with the sky turned so that its direction `pole` (a unit vector) comes to the North pole."""
    x = np.cross([0.3, 0.2, 0.9], pole)
    x /= np.linalg.norm(x)
    return vectors @ np.stack([x, np.cross(pole, x), pole], axis=-1)


def degrees(vectors):
    """RA and Dec of vectors, degrees."""
    ra = np.degrees(np.arctan2(vectors[..., 1], vectors[..., 0])) % 360.0
    ra = np.where(ra >= 360.0, 0.0, ra)
    return ra, np.degrees(np.arctan2(vectors[..., 2], np.hypot(vectors[..., 0], vectors[..., 1])))


def sky_rates(way, mjd, step=1e-4):
    """Rates of a way (a function of time that gives unit vectors), to the East and North, arcsec/h."""
    mjd = np.asarray(mjd, dtype=float)
    here = way(mjd)
    speed = (way(mjd + step) - way(mjd - step)) / (2 * step)
    ra, dec = (np.radians(v) for v in degrees(here))
    east = np.stack([-np.sin(ra), np.cos(ra), 0 * ra], axis=-1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=-1)
    return tuple(np.degrees(np.sum(speed * axis, axis=-1)) * 3600 / 24 for axis in (east, north))


def apart(ra, dec, vectors):
    """Angles between positions in degrees and unit vectors, arcsec."""
    ra, dec = np.radians(ra), np.radians(dec)
    own = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    return np.degrees(2 * np.arcsin(np.linalg.norm(own - vectors, axis=-1) / 2)) * 3600
