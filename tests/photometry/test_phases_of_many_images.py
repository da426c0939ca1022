from __future__ import annotations

import numpy as np

from skygraft.photometry import CalibrationAperture, phases
from skygraft.photometry.phases import PER_PIXEL, PhaseScale
from skygraft.psf import GriddedPSF


def test_images_a_few_at_a_time_are_summed_as_all_together(monkeypatch):
    y, x = np.mgrid[-22:23, -22:23] / 4
    images = [np.exp(-(x**2 + y**2) / (0.5 + 0.1 * k)) for k in range(6)]
    psf = GriddedPSF(images, [(i, j) for i in range(3) for j in range(2)], 4, normalize=True)
    between = psf.sub_pixel.images(PER_PIXEL)
    reference = CalibrationAperture(3.0, 0.6)
    found = []
    for held in (1 << 25, 2 * 81 * np.prod(psf.shape)):
        monkeypatch.setattr(phases, "_MOST_HELD", held)
        scale = PhaseScale("calibrated", reference, between, psf.shape)
        at = np.array([0.3, 1.7])
        found.append(scale(psf.coefficients(at, at), x=at, y=at))
    assert np.array_equal(found[0].scale, found[1].scale)
    assert np.array_equal(found[0].aperture_fraction, found[1].aperture_fraction)
