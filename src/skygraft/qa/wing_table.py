"""Write wings that were fitted to stars: the table of the profile, and the YAML that a campaign uses."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import yaml
from astropy.table import QTable

from skygraft.disk import atomic_path
from skygraft.qa.wing_fit import WingFit

__all__ = ["profile_table", "wings_yaml", "write_profile"]


def profile_table(fit: WingFit, image: str = "") -> QTable:
    """Make the table of a measured profile.

    Parameters
    ----------
    fit : WingFit
        The fit.
    image : str
        What it was measured on.

    Returns
    -------
    QTable
        Columns radius (arcsec), radius_pixels, surface_brightness and error (in units of the profile at the join
        radius), model, n_stars, n_pixels. Only rows with a positive surface brightness: the table is one that
        ``wings: {model: profile, file: ...}`` takes.
    """
    lit = fit.profile > 0
    table = QTable(
        {
            "radius": fit.radii[lit] * fit.pixel_scale * u.arcsec,
            "radius_pixels": fit.radii[lit] * u.pix,
            "surface_brightness": fit.profile[lit],
            "error": fit.errors[lit],
            "model": fit.model(fit.radii)[lit],
            "n_stars": fit.n_stars[lit],
            "n_pixels": fit.n_pixels[lit],
        }
    )
    table.meta |= {
        "image": image,
        "formula": fit.shape.words,
        "join_pixels": float(fit.join),
        "pixel_scale_arcsec": float(fit.pixel_scale),
        "n_stars": len(fit.stars),
        "chi2": float(fit.chi2),
    }
    return table


def write_profile(fit: WingFit, path: Path, image: str = "") -> None:
    """Write the table of a measured profile.

    Parameters
    ----------
    fit : WingFit
        The fit.
    path : Path
        ``.ecsv`` or ``.parquet``; replaced if it is there.
    image : str
        What it was measured on.
    """
    table = profile_table(fit, image)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            from skygraft.catalog.io import to_arrow

            pq.write_table(to_arrow(table), temporary)
        else:
            table.write(temporary, format="ascii.ecsv")


def wings_yaml(fit: WingFit, image: str = "") -> str:
    """Write the section of a campaign file that uses the wings.

    Parameters
    ----------
    fit : WingFit
        The fit.
    image : str
        What it was measured on.

    Returns
    -------
    str
        YAML, ``injection: {wings: ...}``.
    """
    content = {"injection": {"wings": fit.settings.to_dict()}}
    numbers = ", ".join(f"{k} {v:.4g} +- {fit.parameter_errors[k]:.2g}" for k, v in fit.parameters.items())
    head = f"# Fitted to {len(fit.stars)} stars{f' of {image}' if image else ''}: {numbers}\n"
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
