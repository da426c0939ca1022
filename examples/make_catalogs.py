"""Make the example campaigns' catalogues again: `uv run python examples/make_catalogs.py DATA_FOLDER`.

Each is a random population over the example's images, uniform on the sky, the same for the same seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from skygraft.catalog import write_catalog
from skygraft.generation import Population, random_catalog
from skygraft.survey import index_images

HERE = Path(__file__).parent

EXAMPLES = {
    "cfht_849375": ({"images": "calexp-*.fits.fz"}, 200, Population(mag_range=(18.0, 24.0), star_fraction=0.6), 849375),
    "video_H": ({"images": "image_?.fits"}, 160, Population(mag_range=(16.0, 21.0), star_fraction=0.5), 4),
    "decam_grz": (
        {"ccds": "survey-ccds-1.fits.gz"},
        30,
        Population(mag_range=(19.0, 23.0), star_fraction=0.5, colors={"r": -0.6, "z": -1.1}, color_scatter=0.2),
        384128,
    ),
}


def main(data: Path) -> None:
    for name, (spec, number, population, seed) in EXAMPLES.items():
        images = index_images(spec, data / name)
        corners = np.concatenate([np.asarray(polygon, float) for polygon in images["polygon"]])
        (ra0, dec0), (ra1, dec1) = corners.min(axis=0), corners.max(axis=0)
        region = [(ra0, dec0), (ra1, dec0), (ra1, dec1), (ra0, dec1)]
        bands = sorted({str(band) for band in images["band"]})
        catalog = random_catalog(region, bands=bands, n=number, seed=seed, population=population)
        for column in catalog.colnames:
            if catalog[column].dtype.kind == "f":
                catalog[column] = np.round(catalog[column], 7 if column in ("ra", "dec") else 4)
        write_catalog(catalog, HERE / name / "fakes.ecsv", overwrite=True)
        print(f"{name}: {len(catalog)} sources in {', '.join(bands)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
