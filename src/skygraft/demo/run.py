"""The whole demo: simulate a survey, inject sources into it on a Dask cluster, and measure the result."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy.spatial import cKDTree

from skygraft.campaign import Campaign, RichReporter, RunSummary
from skygraft.campaign.pairs import read_pair
from skygraft.catalog import write_catalog
from skygraft.demo.calibrate import measure
from skygraft.demo.fakes import make_fakes, write_campaign
from skygraft.demo.picture import composite_figure
from skygraft.demo.sky import APERTURE_RADIUS, SurveySpec, make_sky
from skygraft.demo.survey import MadeImage, make_survey
from skygraft.errors import OutputExistsError
from skygraft.qa.campaign_closure import campaign_closure, finished_images
from skygraft.qa.closure import ClosureSummary, summarize_closure
from skygraft.qa.plots import closure_figure
from skygraft.views import best_cutout, save_figure, triplet_figure

__all__ = ["DemoResult", "SurveyScale", "run_demo"]

MARKER = ".skygraft-demo"
BRIGHTEST_IN_IMAGE = 17.5  # one range for both kinds of stars, since the effect of neighbours depends on flux
FAINTEST_IN_IMAGE = 19.5  # for stars measured on the noisy images; neighbours affect fainter ones too much
CUTOUT = 560


@dataclass(frozen=True)
class SurveyScale:
    """Comparison of injected stars with the survey's own, both measured on the injected images.

    ``survey`` and ``injected`` are the median of measured minus true magnitude; ``error`` is the standard error of
    their difference.
    """

    n_survey: int
    n_injected: int
    survey: float
    injected: float
    error: float

    @property
    def difference(self) -> float:
        """Injected minus survey, magnitudes: zero if both are on the same scale."""
        return self.injected - self.survey


@dataclass(frozen=True)
class DemoResult:
    """Outputs and measurements of the demo.

    Parameters
    ----------
    output : Path
        Folder of the demo.
    images : tuple of MadeImage
        The survey.
    n_catalog : int
        Number of sources in the catalogue.
    run : RunSummary
        Summary of the campaign's run.
    closure : dict of str to ClosureSummary
        Closure of each band.
    calibrations : dict of str to str
        Calibration aperture and its origin, by band.
    survey_scale : dict of str to SurveyScale
        Comparison with the survey's own stars, by band.
    pictures : tuple of Path
        The pictures; the last is the composite.
    seconds : dict of str to float
        Wall time of each stage.
    """

    output: Path
    images: tuple[MadeImage, ...]
    n_catalog: int
    run: RunSummary
    closure: dict[str, ClosureSummary]
    calibrations: dict[str, str]
    survey_scale: dict[str, SurveyScale]
    pictures: tuple[Path, ...]
    seconds: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether every image is done and every band closes."""
        return self.run.ok and bool(self.closure) and all(summary.ok for summary in self.closure.values())


def run_demo(
    output: str | os.PathLike[str] = "skygraft-demo",
    *,
    seed: int = 1,
    workers: int = 2,
    overwrite: bool = False,
    spec: SurveySpec | None = None,
    console: Console | None = None,
) -> DemoResult:
    """Simulate a small survey, inject sources into it, verify the result, and draw pictures.

    Parameters
    ----------
    output : path-like
        Folder for all files.
    seed : int
        Seed of the survey, the fakes and all noise.
    workers : int
        Number of processes; with 0, everything is done in this one, without Dask.
    overwrite : bool
        Replace the folder of an earlier demo. Any other folder that is not empty is never replaced.
    spec : SurveySpec, optional
        Another survey, whose seed is used instead of `seed`.
    console : rich.console.Console, optional
        Console for progress, by default none.

    Returns
    -------
    DemoResult

    Raises
    ------
    OutputExistsError
        If the folder exists and may not be replaced.
    """
    root = Path(output).resolve()
    spec = spec or SurveySpec(seed=seed)
    _prepare(root, overwrite=overwrite)
    clock = _Clock()
    quiet = Console(quiet=True)
    with Progress(console=console or quiet, transient=True) as progress:
        bar = progress.add_task("drawing a survey with GalSim", total=2 * len(spec.bands) * spec.visits_per_band)
        images = make_survey(root / "survey", spec, workers=workers, progress=lambda _: progress.advance(bar))
    clock.stop("survey")
    fakes = make_fakes(spec)
    write_catalog(fakes, root / "fakes.parquet")
    write_campaign(root / "campaign.yaml", spec, survey="survey", catalog="fakes.parquet", output="injected")
    campaign = Campaign.from_yaml(root / "campaign.yaml")
    summary = campaign.run(n_workers=workers, reporter=RichReporter(console) if console else None)
    clock.stop("campaign")
    with Progress(console=console or quiet, transient=True) as progress:
        bar = progress.add_task("measuring closure", total=len(images))
        table = campaign_closure(campaign, progress=lambda _: progress.advance(bar))
    bands = np.asarray(table["band"]).astype(str)
    closure = {band: summarize_closure(table[bands == band]) for band in spec.bands}
    scale = _survey_scale(campaign, spec)
    clock.stop("verification")
    pictures = _pictures(campaign, table, root)
    clock.stop("pictures")
    return DemoResult(
        root, tuple(images), len(fakes), summary, closure, _calibrations(table), scale, pictures, clock.seconds
    )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now


def _prepare(root: Path, *, overwrite: bool) -> None:
    """Create the folder; with `overwrite`, that of an earlier demo is emptied."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        ours = (root / MARKER).is_file()
        if not (overwrite and ours):
            fix = "Use --overwrite to replace it, or --output to name another" if ours else "Name another with --output"
            kind = "an earlier demo" if ours else "something that is not a demo"
            raise OutputExistsError(f"the folder contains {kind}", path=root, fix=fix)
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).write_text("Made by `skygraft demo`; `skygraft demo --overwrite` may delete this folder.\n")


def _calibrations(table: QTable) -> dict[str, str]:
    found: dict[str, str] = {}
    for image in table.meta["images"]:
        text = f"{image['radius_pixels']:g} pix = {image['radius_arcsec']:.2f} arcsec, from {image['origin']}"
        found.setdefault(image["band"], text)
    return found


def _survey_scale(campaign: Campaign, spec: SurveySpec) -> dict[str, SurveyScale]:
    """Measure survey stars and injected stars on the injected images, with the demo's own photometry."""
    sky = make_sky(spec)
    residuals: dict[str, tuple[list[NDArray[Any]], list[NDArray[Any]]]] = {band: ([], []) for band in spec.bands}
    for image, _record in finished_images(campaign):
        pair = read_pair(campaign.config, image)
        before, after, truth = pair.before, pair.after, pair.truth
        band, calib = str(image.band), before.photo_calib
        assert calib is not None and before.variance is not None
        src = image.source(campaign.config.survey.root)
        rows = fits.getdata(src.with_name(src.name.replace("calexp", "SRC")), 1)
        rows = rows[rows["calib_photometry_used"]]
        rows = rows[_in_range(sky.mags[band][rows["id"]])]
        x, y = (np.asarray(rows[f"base_SdssCentroid_{axis}"], dtype=float) for axis in "xy")
        fake_x, fake_y, fake_mag = (np.array(truth[name], dtype=float) for name in ("x", "y", "mag"))
        # Both must be isolated on the injected image, as the survey's calibration stars are on the original.
        objects = np.stack(before.wcs.world_to_pixel_values(sky.ra, sky.dec), axis=1)
        around = np.concatenate([objects, np.stack([fake_x, fake_y], axis=1)])
        light = 10 ** (-0.4 * np.concatenate([sky.mags[band], fake_mag]))
        stars = (np.asarray(truth["source_type"]).astype(str) == "Star") & _in_range(fake_mag)
        for which, (sx, sy, mag) in enumerate(
            ((x, y, sky.mags[band][rows["id"]]), (fake_x[stars], fake_y[stars], fake_mag[stars]))
        ):
            near = cKDTree(around).query_ball_point(np.stack([sx, sy], axis=1), APERTURE_RADIUS + 6)
            alone = [light[n].sum() < 1.005 * 10 ** (-0.4 * m) for n, m in zip(near, mag, strict=True)]
            keep = np.array(alone, dtype=bool)
            if not keep.any():
                continue
            flux, _ = measure(after.image, before.variance, sx[keep], sy[keep])
            delta = calib.magnitude(flux, sx[keep], sy[keep]) - mag[keep]
            residuals[band][which].append(delta[np.isfinite(delta)])
    return {
        band: _compare(*(np.concatenate([np.zeros(0), *part]) for part in pair)) for band, pair in residuals.items()
    }


def _in_range(mag: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (mag > BRIGHTEST_IN_IMAGE) & (mag < FAINTEST_IN_IMAGE)


def _compare(survey: NDArray[np.float64], injected: NDArray[np.float64]) -> SurveyScale:
    def middle(values: NDArray[np.float64]) -> tuple[float, float]:
        if not values.size:
            return float("nan"), float("nan")
        median = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - median)))
        return median, 1.2533 * spread / np.sqrt(values.size)

    (a, error_a), (b, error_b) = middle(survey), middle(injected)
    return SurveyScale(survey.size, injected.size, a, b, float(np.hypot(error_a, error_b)))


def _pictures(campaign: Campaign, closure: QTable, root: Path) -> tuple[Path, ...]:
    done = [image for image, _ in finished_images(campaign)]
    # The first image of the last, reddest band, in which galaxies are most prominent.
    image = next(i for i in done if i.band == done[-1].band)
    pair = read_pair(campaign.config, image)
    before, after, truth = pair.before, pair.after, pair.truth
    cutout = best_cutout(before, truth, CUTOUT)
    folder = root / "pictures"
    folder.mkdir(exist_ok=True)
    title = f"skygraft demo: {image.image_id}, band {image.band}"
    return (
        save_figure(triplet_figure(before, after, truth), folder / "whole_detector.png"),
        save_figure(triplet_figure(before, after, truth, cutout=cutout), folder / "before_after_difference.png"),
        save_figure(closure_figure(closure), folder / "closure.png"),
        save_figure(composite_figure(before, after, truth, closure, cutout=cutout, title=title), root / "demo.png"),
    )
