"""A small campaign whose outputs are damaged on purpose, and the damages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from astropy.table import QTable
from numpy.typing import NDArray

from kits.finished_images import planned
from kits.plain_images import plain_header
from skygraft.campaign import Campaign, PlannedImage, read_plan
from skygraft.campaign.pairs import ImagePair, read_pair
from skygraft.catalog import Flag, write_catalog
from skygraft.catalog.flags import has_flag
from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions, inject
from skygraft.records.files import Layout, sha256_file
from skygraft.records.image_record import PIXEL_VERSION, read_record, write_record

RA, DEC, SIZE = 150.1, 2.2, 320
SCALE, GAIN = 0.2, 2.0


def write_image(path: Path, seed: int, *, shift: float = 0.0, variance: bool = True, **cards: Any) -> None:
    """An image of SIZE pixels with noise of the sky and, unless told not to, its variance plane and a mask."""
    rng = np.random.default_rng(seed)
    pixels = (100 + 7 * rng.standard_normal((SIZE, SIZE))).astype(np.float32)
    header = plain_header(RA + shift / 3600, DEC, SIZE, GAIN=GAIN, **cards)
    hdus = [fits.PrimaryHDU(pixels, header)]
    if variance:
        hdus.append(fits.ImageHDU(np.full((SIZE, SIZE), 49.0, np.float32), name="VARIANCE"))
        mask = np.zeros((SIZE, SIZE), np.int32)
        mask[40:44, 100:200] = 1
        hdus.append(fits.ImageHDU(mask, fits.Header({"MP_BAD": 0}), name="MASK"))
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path)


def make_catalog(seed: int = 3, n_side: int = 4, faintest: float = 15.0) -> QTable:
    """Stars and elongated galaxies, in turn, on a jittered grid, of some 10^7 photons in all."""
    rng = np.random.default_rng(seed)
    step = (SIZE - 60) / (n_side - 1)
    grid = np.stack(np.meshgrid(*[np.arange(n_side) * step - (SIZE - 60) / 2] * 2), axis=-1).reshape(-1, 2)
    grid = (grid + rng.uniform(-3, 3, grid.shape)) * SCALE
    n = len(grid)
    star = np.arange(n) % 2 == 0
    return QTable(
        {
            "injection_id": np.arange(n) + 10,
            "ra": RA + grid[:, 0] / 3600 / np.cos(np.radians(DEC)),
            "dec": DEC + grid[:, 1] / 3600,
            "source_type": np.where(star, "Star", "Sersic"),
            "mag_r": rng.uniform(faintest - 2.0, faintest, n),
            "n": np.where(star, np.nan, 1.0),
            "half_light_radius": np.where(star, np.nan, 1.0),
            "q": np.where(star, np.nan, 0.4),
            "pa": np.where(star, np.nan, rng.uniform(0, 180, n)),
        }
    )


def make_campaign(
    folder: Path,
    *,
    n_images: int = 1,
    variance: bool = True,
    catalog: QTable | None = None,
    seed: int = 1,
    cards: dict[str, Any] | None = None,
    **injection: Any,
) -> Campaign:
    """Write images and a catalogue, and run the campaign."""
    for i in range(n_images):
        # Of one visit, two detectors that overlap.
        write_image(
            folder / f"raw/image-{i}.fits",
            1000 * seed + i,
            shift=10.0 * i,
            variance=variance,
            EXPNUM=500 + i // 2,
            CCDNUM=i % 2,
            **(cards or {}),
        )
    write_catalog(make_catalog() if catalog is None else catalog, folder / "fakes.parquet")
    content = {
        "name": "verified",
        "survey": {"images": "raw/*.fits", "calibration": {"psf": {"kind": "gaussian", "fwhm": "0.8 arcsec"}}},
        "catalog": {"path": "fakes.parquet"},
        "injection": {"seed": seed, **injection},
        "output": "out",
        "margin_arcsec": 5.0,
    }
    (folder / "campaign.yaml").write_text(yaml.safe_dump(content))
    campaign = Campaign.from_yaml(folder / "campaign.yaml")
    assert campaign.run(n_workers=0).ok
    return campaign


def first(campaign: Campaign) -> PlannedImage:
    """The first image of its plan."""
    return next(iter(read_plan(campaign.layout.plan)))


def pair_of(campaign: Campaign, image: PlannedImage | None = None) -> ImagePair:
    """What verification reads of an image."""
    return read_pair(campaign.config, image or first(campaign))


def settings_of(campaign: Campaign) -> dict[str, Any]:
    """What verification is told of the campaign."""
    return {
        "injection": campaign.config.injection.model_dump(mode="json"),
        "settings": campaign.config.pixel_settings(),
    }


def note_again(campaign: Campaign, image: PlannedImage, **changes: Any) -> None:
    """Write the record anew with the checksums of the files as they are: damage that no checksum tells of."""
    layout = Layout(campaign.config.output)
    path = layout.record(image.tract, image.patch, image.stem)
    record = read_record(path, image.image_id)
    assert record is not None
    for name, output in record["outputs"].items():
        file = layout.root / name
        output |= {"n_bytes": file.stat().st_size, "sha256": sha256_file(file)}
    write_record(path, json.loads(json.dumps({**record, **changes})))


def change_pixels(
    campaign: Campaign, change: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]], name: str | int = 0
) -> None:
    """Replace a plane of the first image's output by ``change(original, output)``, and its checksum."""
    image = first(campaign)
    source, output = campaign.config.survey.root / image.path, campaign.layout.images / image.output
    with fits.open(output, mode="update") as hdus:
        hdus[name].data = change(fits.getdata(source, name), hdus[name].data).astype(hdus[name].data.dtype)
    note_again(campaign, image)


def memory_pair(before: Exposure, sources: QTable, **options: Any) -> tuple[ImagePair, dict[str, Any]]:
    """What verification reads of an image, and is told of it, without any file: injected here."""
    how = InjectionOptions(**options)
    injection = inject(before, sources, options=how, image_id="one", band="r", on_bad="flag")
    truth = injection.truth[~has_flag(injection.truth["flags"], Flag.NO_OVERLAP)]
    record = {
        "code": PIXEL_VERSION,
        "n_sources": len(truth),
        "n_drawn": injection.summary["n_drawn"],
        "flags": injection.summary["flags"],
        "injection": injection.summary,
    }
    canonical = sources.copy()
    canonical.sort("injection_id")
    pair = ImagePair(planned("one", (0, 0)), record, before, injection.exposure, truth, canonical)
    return pair, {"injection": dataclasses.asdict(how)}
