"""Damaged configurations and damaged outputs of campaigns, by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from fuzz.images import PSF
from fuzz.judge import CommandFailedError, SilentError, command, inside
from fuzz.kit import Fuzz, copy_tree
from kits.plain_images import SCALE, write_plain_image
from kits.tiny_campaign import DEC, RA, write_tiny_campaign

# --- configurations

_CALIBRATION = {"aperture": "12 pix", "zeropoint": 27.0, "unit": "adu", "gain": 2.0, "psf": PSF}
_INJECTION = {
    "flux_mode": "aperture", "aperture": "2 arcsec", "position": "image", "noise": True, "seed": 7, "gain": 2.0,
    "flux_tolerance": 0.01, "mask_threshold": 0.2, "mark_injected": False, "stars": "taps", "galaxies": "precise",
}  # fmt: skip
_SLURM = {
    "kind": "slurm", "queue": "regular", "account": "m1", "n_workers": 4, "cores": 2, "memory": "4GiB",
    "walltime": "04:00:00", "interface": "hsn0", "directives": ["--qos=regular"], "scratch": "/tmp",
}  # fmt: skip
_CONFIGS: dict[str, dict[str, Any]] = {
    "short": {},
    "sections": {
        "survey": {"images": ["raw/*.fits"], "format": "fits", "calibration": _CALIBRATION},
        "catalog": {"path": "fakes.parquet", "dialect": "native", "band": "r", "on_bad": "flag"},
        "injection": _INJECTION,
        "task_seconds": 30.0,
        "images_per_task": 10,
        "retries": 0,
    },
    "rings": {"skymap": {"kind": "rings", "num_rings": 120, "ra_start": 0.0, "pixel_scale": 0.168, "patch_inner": 4000,
                         "patch_border": 100, "tract_overlap": 0.0167, "version": 1}, "injection": {"seed": 4}},
    "healpix": {"skymap": {"kind": "healpix", "nside": 64, "patch_nside": 1024}, "injection": {"seed": 4}},
    "options": {"survey": {"images": "raw/*.fits", "options": {"zeropoint_key": "MAGZERO"},
                           "calibration": {"psf": {"kind": "gaussian", "fwhm": "4 pix"}}}},
    "wings": {"injection": {"wings": {"model": "power_law", "alpha": 3.0, "join": "12 pix", "outer": "40 pix"}}},
    "profile_of_wings": {"injection": {"wings": {"model": "profile", "file": "wings.ecsv", "join": "2 arcsec"}}},
    "psf_files": {"survey": {"images": "raw/*.fits", "calibration": {
        "psf": {"band": {"r": {"kind": "image", "path": "../psf_{band}_{visit:04d}.fits"}, "g": "{stem}.psf"}}}}},
    "times": {"catalog": {"path": "fakes.parquet", "ephemerides": "ephemerides.csv", "light_curves": "curves.csv"}},
    "recovery": {"recovery": {"catalogs": {
        "injected": "cats/{file}.cat", "original": "cats/{stem}_0.cat", "columns": {"ra": "RA", "dec": "D", "mag": "M"},
        "units": {"RA": "rad"}, "frame": "fk5", "zeropoint": 27.0, "duplicate_arcsec": 0.3}}},
    "slurm": {"cluster": _SLURM},
    "profile": {"cluster": "site.yaml"},
}  # fmt: skip


def _write_files(folder: Path, named: str) -> None:
    """Write what a configuration names besides images and catalogue."""
    if "wings.ecsv" in named:
        table = Table({"radius": np.geomspace(0.5, 20, 9) * u.arcsec, "surface_brightness": np.geomspace(1, 1e-4, 9)})
        table.write(folder / "wings.ecsv")
    if "psf_{band}" in named:
        y, x = np.mgrid[-10:11, -10:11]
        header = fits.Header({"PIXSCALE": SCALE, "FILTER": "r"})
        fits.writeto(folder / "psf_r_0500.fits", np.exp(-(x**2 + y**2) / 8.0).astype(np.float32), header)
    if "curves.csv" in named:
        place = {"ra": RA + np.arange(4) * 1e-4, "dec": [DEC] * 4}
        Table({"id": [3] * 4, "mjd": 58000.0 + np.arange(4), **place, "mag_r": [20.0] * 4}).write(
            folder / "ephemerides.csv"
        )
        Table({"id": ["a", "a"], "mjd": [0.0, 1e5], "mag_r": [20.0, 21.0]}).write(folder / "curves.csv")


class Config:
    """The target of damaged configurations."""

    WEIGHTS: ClassVar[dict[str, float]] = {}

    @staticmethod
    def make(folder: Path) -> list[str]:
        """Write a campaign in each form."""
        for name, settings in _CONFIGS.items():
            write_tiny_campaign(folder / name, 1, **settings)
            (folder / name / "site.yaml").write_text(yaml.safe_dump(_SLURM))
            _write_files(folder / name, yaml.safe_dump(settings))
        return list(_CONFIGS)

    @staticmethod
    def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
        """Plan and ask for the status, now and then run and verify; errors say so in words."""
        copy_tree(fuzz.folder / "config" / name, case)
        fuzz.damage(case / ("site.yaml" if name == "profile" and rng.random() < 0.7 else "campaign.yaml"), rng, what)
        commands = [("plan", "campaign.yaml", "--processes", "1"), ("status", "campaign.yaml")]
        if rng.random() < 0.15:
            commands += [("run", "campaign.yaml", "--workers", "0"), ("verify", "campaign.yaml", "--checksums")]
        said, codes = "", []
        with inside(case):
            for words in commands:
                code, text = command(*words)
                codes.append(code)
                said += text if code else ""
                if fuzz.harmless and "error:" in text:
                    raise AssertionError(f"the product does not take it as it is: {text}")
        what.append(f"{', '.join(words[0] for words in commands)}: {codes}")
        if any(codes):
            raise CommandFailedError(said)


# --- outputs


def _two_bands(folder: Path) -> None:
    """Images of two bands and visits, and a catalogue that has both."""
    path = write_tiny_campaign(folder, 2, injection={"seed": 3})
    write_plain_image(folder / "raw/image-100.fits", RA, DEC, 100, seed=9, EXPNUM=600, FILTER="g")
    from skygraft.catalog import read_catalog, write_catalog

    table = read_catalog(folder / "fakes.parquet")
    table["mag_g"] = table["mag_r"]
    write_catalog(table, folder / "fakes.parquet", overwrite=True)
    assert path.is_file()


def _with_planes(folder: Path) -> None:
    """Images with weights and masks as extensions, whose outputs have them too."""
    write_tiny_campaign(folder, 2)
    for path in sorted((folder / "raw").glob("*.fits")):
        with fits.open(path) as hdus:
            data, header = hdus[0].data.copy(), hdus[0].header.copy()
        planes = [fits.PrimaryHDU(), fits.ImageHDU(data, header, "SCI")]
        planes += [fits.ImageHDU(np.full(data.shape, 25.0, np.float32), name="VAR")]
        planes += [fits.CompImageHDU(np.zeros(data.shape, np.int16), name="DQ", compression_type="RICE_1")]
        fits.HDUList(planes).writeto(path, overwrite=True)


def _calexps(folder: Path) -> None:
    """A campaign over an image as the LSST pipelines have it."""
    from fuzz.images import KINDS

    write_tiny_campaign(folder, 1, survey={"images": "raw/calexp*.fits"}, margin_arcsec=20.0)
    KINDS["calexp"](folder / "raw")
    from skygraft import read_exposure
    from skygraft.catalog import read_catalog, write_catalog

    exposure = read_exposure(next((folder / "raw").glob("calexp*.fits")))
    table = read_catalog(folder / "fakes.parquet")
    rng, (ny, nx), (x0, y0) = np.random.default_rng(4), exposure.shape, exposure.xy0
    x, y = x0 + rng.uniform(5, nx - 5, len(table)), y0 + rng.uniform(5, ny - 5, len(table))
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    table["ra"][:], table["dec"][:] = ra * table["ra"].unit, dec * table["dec"].unit
    write_catalog(table, folder / "fakes.parquet", overwrite=True)


_CAMPAIGNS: dict[str, Any] = {
    "plain": lambda folder: write_tiny_campaign(folder, 2),
    "two_bands": _two_bands,
    "planes": _with_planes,
    "calexp": _calexps,
}

_VOLATILE = (
    "ledger.jsonl",
    "ledger_checkpoint.arrow",
    "campaign.yaml",
    ".lock",
    ".consolidated",
    "provenance.json",
    "plan",
    "failures.parquet",
)
"""What a campaign writes that is no result, or that tells when it was made."""


def _results(out: Path) -> dict[str, bytes]:
    files = (p for p in sorted(out.rglob("*")) if p.is_file())
    named = ((p.relative_to(out).as_posix(), p) for p in files)
    return {
        n: p.read_bytes()
        for n, p in named
        if not n.startswith((*_VOLATILE, "records/", "catalog/_partition.json")) and "/." not in n
    }


class Outputs:
    """The target of damaged outputs."""

    WEIGHTS: ClassVar[dict[str, float]] = {"two_bands": 0.5}

    @staticmethod
    def make(folder: Path) -> list[str]:
        """Write campaigns and run them."""
        from skygraft.campaign import Campaign

        for name, write in _CAMPAIGNS.items():
            (folder / name / "raw").mkdir(parents=True)
            write(folder / name)
            summary = Campaign.from_yaml(folder / name / "campaign.yaml").run(n_workers=0)
            assert summary.ok, summary
        return list(_CAMPAIGNS)

    @staticmethod
    def attempt(fuzz: Fuzz, name: str, case: Path, rng: np.random.Generator, what: list[str]) -> None:
        """Damage an output: status, run and verify between them mend it, or name it."""
        sound = fuzz.folder / "outputs" / name
        copy_tree(sound, case)
        files = sorted(p for p in (case / "out").rglob("*") if p.is_file() and p.stat().st_size)
        kinds = sorted({p.parent for p in files})
        # A folder first: there are more images than plans, and each kind of file rots in its own way.
        within = kinds[rng.integers(len(kinds))]
        some = [p for p in files if p.parent == within] if rng.random() < 0.5 else files
        path = some[rng.integers(len(some))]
        named = path.relative_to(case)
        if rng.random() < 0.1 and not fuzz.harmless:
            path.unlink()
            what.append(f"{named} removed")
        else:
            change = fuzz.damage(path, rng, what)
            what[:] = [f"{named}: {change.what}"]
        said, codes = "", []
        commands = (
            ("status", "campaign.yaml"),
            ("run", "campaign.yaml", "--workers", "0"),
            ("verify", "campaign.yaml", "--checksums"),
        )
        with inside(case):
            for words in commands:
                code, text = command(*words)
                codes.append(code)
                said += text if code else ""
        what.append(f"status, run, verify: {codes}")
        if any(codes):
            raise CommandFailedError(said)
        before = fuzz.known(f"results/{name}", lambda: _results(sound / "out"))
        after = _results(case / "out")
        if after != before:
            differ = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
            raise SilentError(f"damaged and not noticed: {', '.join(differ)} ({named.parts[1]})")
