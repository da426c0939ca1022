"""Write the demo's survey: calexps, their source catalogues, and the true sky."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skygraft.demo.calexp import write_calexp, write_src
from skygraft.demo.calibrate import calibrate
from skygraft.demo.draw import draw_detector, fit_psfex
from skygraft.demo.sky import APERTURE_RADIUS, Detector, Sky, SurveySpec, Visit, make_sky, make_visits

__all__ = ["MadeImage", "make_survey"]


@dataclass(frozen=True)
class MadeImage:
    """One image of the survey.

    Parameters
    ----------
    path : Path
        The calexp; ``SRC-<visit>-<detector>.fits`` is in the same folder.
    visit, detector : int
    band : str
    seeing : float
        FWHM in arcsec at the boresight, without the pixel response.
    n_objects : int
        Number of stars and galaxies on the image.
    n_stars_used : int
        Number of stars that the photometric calibration was fitted to.
    """

    path: Path
    visit: int
    detector: int
    band: str
    seeing: float
    n_objects: int
    n_stars_used: int


def make_survey(
    folder: Path,
    spec: SurveySpec,
    *,
    workers: int = 1,
    progress: Callable[[MadeImage], None] | None = None,
) -> list[MadeImage]:
    """Generate a small survey from a seed.

    Parameters
    ----------
    folder : Path
        Folder of the files; created if it does not exist.
    spec : SurveySpec
        Size and seed.
    workers : int
        Number of processes; 1 draws in this one.
    progress : callable, optional
        Called with each image after it is written.

    Returns
    -------
    list of MadeImage
        In order of visit and detector. The files depend only on `spec`, not on `workers`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sky = make_sky(spec)
    jobs = [(visit, number) for visit in make_visits(spec) for number in (0, 1)]
    made = []
    if workers <= 1:
        for visit, number in jobs:
            made.append(make_image(folder, spec, sky, visit, number))
            if progress:
                progress(made[-1])
        return made
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(make_image, folder, spec, sky, visit, number) for visit, number in jobs]
        for future in futures:
            made.append(future.result())
            if progress:
                progress(made[-1])
    return made


def make_image(folder: Path, spec: SurveySpec, sky: Sky, visit: Visit, number: int) -> MadeImage:
    """Draw, calibrate and write one detector of one visit."""
    detector = Detector(visit, number, spec.detector_size)
    drawn = draw_detector(sky, detector, spec.seed)
    calibrated = calibrate(sky, drawn, visit.band)
    path = folder / f"calexp-{visit.number}-{number}.fits"
    write_calexp(
        path,
        image=drawn.image,
        variance=drawn.variance,
        mask=drawn.mask,
        wcs_header=detector.header,
        psf=fit_psfex(detector),
        calib=calibrated.calib,
        band=visit.band,
        physical_filter=f"demo-{visit.band}",
        visit_cards=visit.cards(number),
    )
    index = calibrated.index
    write_src(
        folder / f"SRC-{visit.number}-{number}.fits",
        columns={
            "id": index.astype(np.int64),
            "coord_ra": np.deg2rad(sky.ra[index]),
            "coord_dec": np.deg2rad(sky.dec[index]),
            "base_SdssCentroid_x": calibrated.x,
            "base_SdssCentroid_y": calibrated.y,
            "base_CircularApertureFlux_12_0_instFlux": calibrated.flux,
            "base_CircularApertureFlux_12_0_instFluxErr": calibrated.error,
            "calib_photometry_used": calibrated.used,
        },
        radius=APERTURE_RADIUS,
    )
    return MadeImage(
        path, visit.number, number, visit.band, visit.seeing, len(drawn.objects), int(calibrated.used.sum())
    )
