"""Draw the picture of source types in docs/catalogues.md: ``uv run --group docs python docs/draw_source_types.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

import skygraft
from skygraft.psf import MoffatPSF
from skygraft.testing import make_exposure

SIDE, COLUMNS = 61, 6
SIZE = {"half_light_radius": 1.2, "q": 0.5, "pa": 30.0}
PANELS = {
    "Star": {},
    "Sersic (n = 4)": SIZE | {"n": 4.0},
    "BulgeDisk": {
        "bulge_fraction": 0.4, "bulge_half_light_radius": 0.4, "disk_half_light_radius": 1.8, "disk_q": 0.4,
        "disk_pa": 30.0,
    },
    "Gaussian": SIZE,
    "Moffat": SIZE | {"moffat_beta": 2.0},
    "Spergel": SIZE | {"spergel_nu": 0.5},
    "Kolmogorov": SIZE | {"q": 1.0},
    "InclinedExponential": SIZE | {"inclination": 85.0},
    "InclinedSersic": SIZE | {"n": 2.0, "inclination": 70.0},
    "RandomKnots": SIZE | {"n_knots": 25},
    "Trail": {"trail_length": 6.0, "trail_pa": 60.0},
    "Sersic, lensed": SIZE | {"n": 1.0, "shear": 0.4, "shear_pa": 100.0, "magnification": 2.0},
}  # fmt: skip


def main() -> None:
    """Write docs/_static/source_types.png."""
    rows = -(-len(PANELS) // COLUMNS)
    exposure = make_exposure((rows * SIDE, COLUMNS * SIDE), psf=MoffatPSF(fwhm=3.0, beta=3.0, shape=(41, 41)))
    table = []
    for i, (name, shape) in enumerate(PANELS.items()):
        x, y = SIDE * (i % COLUMNS + 0.5), SIDE * (rows - 0.5 - i // COLUMNS)
        ra, dec = (float(v) for v in exposure.wcs.pixel_to_world_values(x, y))
        kind = name.split()[0].rstrip(",")
        table.append({"injection_id": i, "ra": ra, "dec": dec, "source_type": kind, "mag_r": 18.0} | shape)
    names = sorted({name for row in table for name in row})
    columns = {name: [row.get(name, 0 if name == "n_knots" else np.nan) for row in table] for name in names}
    columns |= {name: np.nan_to_num(columns[name], nan=none) for name, none in (("shear", 0.0), ("magnification", 1.0))}
    image = skygraft.inject(exposure, columns, noise=False).exposure.planes["image"].to_numpy()
    figure, axes = plt.subplots(figsize=(9, 9 * rows / COLUMNS + 0.1), dpi=110)
    axes.imshow(np.arcsinh(image / 2.0), origin="lower", cmap=mpl.colormaps["magma"])
    for i, name in enumerate(PANELS):
        place = SIDE * (i % COLUMNS) + 2, SIDE * (rows - i // COLUMNS) - 4
        axes.text(*place, name, color="white", fontsize=8, va="top")
    axes.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1)
    figure.savefig(Path(__file__).parent / "_static" / "source_types.png")


if __name__ == "__main__":
    main()
