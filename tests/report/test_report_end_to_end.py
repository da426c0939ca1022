"""From images to the page by the command line alone: its numbers are those that the tables give by themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import sep
import yaml
from astropy.io import fits
from astropy.wcs import WCS
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.optimize import differential_evolution
from typer.testing import CliRunner

import skygraft
from kits.field_kit import RADIUS, SIZE, write_field_campaign
from report.page_reader import Page
from skygraft.cli import app

ZEROPOINT = 27.0


def command(*words: object) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


def table_of(folder: Path) -> Any:
    files = sorted(str(path) for path in folder.glob("tract=*/patch=*/*.parquet"))
    return ds.dataset(files).to_table().to_pandas()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a campaign that has been run, recovered, verified, judged and reported."""
    config = write_field_campaign(tmp_path_factory.mktemp("field"))
    command("run", config, "--workers", 0)
    command("recover", config, "--workers", 0)
    command("verify", config, "--workers", 1)
    command("aperture", config, "--workers", 1)
    command("report", config)
    return config


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page(made.parent / "out/report/report.html")


def half(mag: Any, found: Any) -> float:
    """Magnitude at which a logistic of greatest likelihood is one half, by searching all of its three parameters."""

    def loss(parameters: Any) -> float:
        plateau, middle, log_width = parameters
        p = plateau / (1 + np.exp(np.clip((mag - middle) / np.exp(log_width), -60, 60)))
        p = np.clip(p, 1e-9, 1 - 1e-9)
        return -float(np.sum(np.where(found, np.log(p), np.log1p(-p))))

    best = differential_evolution(loss, [(0.5, 1.0), (19.0, 22.5), (np.log(0.02), np.log(2.0))], seed=1, tol=1e-10)
    plateau, middle, log_width = best.x
    return float(middle + np.exp(log_width) * np.log(2 * plateau - 1))


def test_numbers_of_the_page_are_those_of_the_recovery_table(made: Path, page: Page) -> None:
    rows = table_of(made.parent / "out/recovery")
    usable = rows[rows.usable]
    assert len(rows) > 300 and 100 < usable.found.sum() < len(usable) - 50
    text = page.sections["summary"]
    assert f"{100 * usable.found.mean():.1f} %" in text
    assert f"{int(usable.found.sum())} of {len(usable)} usable" in text
    for kind, name in (("Star", "stars"), ("Sersic", "Sérsic galaxies")):
        some = usable[usable.source_type == kind]
        said = re.search(rf"m50 of {name}, r\s+([\d.]+)\s+± ([\d.]+) mag", text)
        assert said is not None, text
        # Digits as written, and far within the error.
        assert float(said[1]) == pytest.approx(half(some.mag.to_numpy(), some.found.to_numpy()), abs=0.02)
        assert 0.02 < float(said[2]) < 0.3
        assert f"{len(some)} {some.found.mean():.3f}" in page.sections["completeness"]
    reasons = rows[~rows.found].reason.value_counts()
    for reason, n in reasons.items():
        assert re.search(rf"{reason} .* {n} ", page.sections["missed"])


def test_closure_is_that_of_the_images(made: Path, page: Page) -> None:
    """The bright stars, in circles of photutils on output minus input."""
    truth = table_of(made.parent / "out/truth")
    bright = truth[(truth.source_type == "Star") & (truth.mag < 16.5)]
    medians = []
    for output in sorted((made.parent / "out/images").rglob("field_?.fits")):
        with fits.open(output) as after, fits.open(made.parent / "raw" / output.name) as before:
            planes = [next(one.data for one in hdus if one.data is not None) for hdus in (after, before)]
        visit = 500 + int(output.stem[-1])
        mine = bright[bright.image_id.str.contains(f"-{visit}-")]
        assert len(mine) >= 12
        difference = np.asarray(planes[0], float) - np.asarray(planes[1], float)
        circles = CircularAperture(np.stack([mine.x, mine.y], axis=1), RADIUS)
        flux = aperture_photometry(difference, circles, method="exact")["aperture_sum"]
        offset = ZEROPOINT - 2.5 * np.log10(np.asarray(flux)) - mine.mag.to_numpy()
        medians.append(1e3 * np.median(offset))
    said = re.search(r"closure ([+−][\d.]+) mmag", page.sections["summary"])
    assert said is not None
    # Medians of single stars scatter by 1.2 mmag of photon noise, and are of not quite the same stars.
    assert float(said[1].replace("−", "-")) == pytest.approx(np.median(medians), abs=1.5)
    assert abs(np.median(medians)) < 2.0
    assert "No check of the outputs failed" in page.sections["closure"]


def test_nothing_is_missing(page: Page) -> None:
    commands = re.findall(r'class="note[^"]*">[^<]*<code>[^<]*', page.text)
    assert commands == []
    assert not re.search("was not measured|were not verified|has not been measured|cannot be read", page.text)
    # The run that wrote the provenance says how many images it made.
    assert re.search(r"images made 1 [-\d]+ [:\d]+ [-\d]+ [:\d]+ 2\b", page.sections["provenance"])
    assert {"transients", "classes"} & set(page.sections) == set()
    assert "light outside this aperture" in page.sections["measured"]


def test_the_selection_function_is_a_product(made: Path, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of Python that the page gives, run beside it; and completeness by counting."""
    lines = re.search(r"import skygraft.*?# ([\d.]+) ± ([\d.]+)", page.sections["selection"])
    assert lines is not None
    code = re.sub(r"<[^>]+>", "", re.search(r"<pre[^>]*>(import skygraft.*?)</pre>", page.text, re.S)[1])  # type: ignore[index]
    monkeypatch.chdir(made.parent / "out/report")
    names: dict[str, Any] = {}
    exec(code.replace("&#39;", "'").replace("&#34;", '"'), names)
    assert float(names["probability"]) == pytest.approx(float(lines[1]), abs=6e-4)
    assert float(names["error"]) == pytest.approx(float(lines[2]), abs=6e-4)
    selection = skygraft.selection("numbers/selection.nc")
    rows = table_of(made.parent / "out/recovery")
    stars = rows[rows.usable & (rows.source_type == "Star")]
    for low, high in ((17.5, 19.5), (21.8, 22.8)):
        some = stars[(stars.mag > low) & (stars.mag < high)]
        p, error = selection.sel((low + high) / 2, band="r", source_type="Star")
        n = len(some)
        assert abs(p - some.found.mean()) < 4 * np.hypot(error, np.sqrt(0.25 / n) if 0.1 < p < 0.9 else 1.5 / n)
    outside, _ = selection.sel(10.0, band="r", source_type="Star")
    assert np.isnan(outside)
    assert "15.0" in page.sections["selection"] and "point sources" in page.sections["selection"]


@pytest.mark.dask
@pytest.mark.usefixtures("forked_processes")
def test_neither_the_order_of_workers_nor_the_folder_changes_a_byte(made: Path, tmp_path: Path) -> None:
    first, second = made.parent / "out/report", tmp_path / "second"
    command("recover", made, "--workers", 2, "--redo")
    command("verify", made, "--workers", 2, "--redo")
    command("aperture", made, "--workers", 2, "--redo")
    command("report", made, "--output", second)
    assert (second / "report.html").read_bytes() == (first / "report.html").read_bytes()
    files = [path for path in first.rglob("*") if path.suffix in (".png", ".pdf", ".parquet", ".json")]
    assert len(files) > 20
    for path in files:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def detections(path: Path, out: Path) -> Any:
    """SEP's own catalogue of an image, with a classification by size, as a pipeline would write it."""
    with fits.open(path) as hdus:
        hdu = next(one for one in hdus if one.data is not None)
        hdu.header.remove("MJD-AVG")  # of which WCS warns
        pixels, wcs = np.ascontiguousarray(hdu.data, np.float64), WCS(hdu.header)
    background = sep.Background(pixels)
    objects = sep.extract(pixels - background.back(), 1.5, err=background.globalrms)
    ra, dec = wcs.pixel_to_world_values(objects["x"], objects["y"])
    flux, error, _ = sep.sum_circle(
        pixels - background.back(), objects["x"], objects["y"], RADIUS, err=background.globalrms, gain=2.0
    )
    size, _ = sep.flux_radius(
        pixels - background.back(), objects["x"], objects["y"], 6.0 * objects["a"], 0.5, normflux=objects["flux"]
    )
    found = pd.DataFrame({"R": ra, "D": dec, "f": flux, "df": error, "p": (size < 2.7).astype(float)})
    out.parent.mkdir(parents=True, exist_ok=True)
    found.to_parquet(out)
    return found


@pytest.mark.usefixtures("no_figure_files")
def test_recovery_from_catalogues(tmp_path: Path) -> None:
    """Of a pipeline's own detections: what is found by matching by hand, and how its classes are confused."""
    config = write_field_campaign(tmp_path, n_images=1)
    command("run", config, "--workers", 0)
    output = next((tmp_path / "out/images").rglob("field_0.fits"))
    after = detections(output, tmp_path / "cats/after/field_0.parquet")
    before = detections(tmp_path / "raw/field_0.fits", tmp_path / "cats/before/field_0.parquet")
    assert len(after) > len(before) + 60
    catalogs = {
        "injected": "cats/after/{file}.parquet",
        "original": "cats/before/{file}.parquet",
        "columns": {"ra": "R", "dec": "D", "flux": "f", "error": "df", "class_star": "p"},
    }
    content = yaml.safe_load(config.read_text()) | {"recovery": {"catalogs": catalogs}}
    config.write_text(yaml.safe_dump(content))
    command("recover", config, "--workers", 0)
    command("report", config)
    page = Page(tmp_path / "out/report/report.html")
    rows = table_of(tmp_path / "out/recovery")
    found = rows[rows.found & rows.usable]
    # By hand: the nearest detection within 0.6 arcsec, and none on the original within an arcsec.
    cos = np.cos(np.radians(rows.dec.to_numpy()))[:, None]

    def nearest(catalog: Any) -> Any:
        dx = (rows.ra.to_numpy()[:, None] - catalog.R.to_numpy()) * cos
        return 3600 * np.hypot(dx, rows.dec.to_numpy()[:, None] - catalog.D.to_numpy()).min(1)

    lone = nearest(before) > 3.0
    near = nearest(after)
    assert lone.sum() > 90
    assert np.all(rows.found[lone & (near < 0.5)]) and not np.any(rows.found[lone & (near > 1.5)])
    assert f"{len(found)} of {int(rows.usable.sum())} usable" in page.sections["summary"]
    assert "looked for in catalogues" in page.sections["methods"]
    star = (found.class_star_out > 0.5).to_numpy()
    for kind in ("Star", "Sersic"):
        mine = (found.source_type == kind).to_numpy()
        for n in ((mine & star).sum(), (mine & ~star).sum()):
            assert f"{n} ({100 * n / mine.sum():.1f} %)" in page.sections["classes"]
    assert "of no source at all is not known" in page.sections["classes"]
    assert (tmp_path / "out/report/figures/confusion-mag.png").is_file()
    assert pq.read_table(tmp_path / "out/report/numbers/fits.parquet").num_rows == 2
    numbers = json.loads((tmp_path / "out/report/numbers/report.json").read_text())
    assert numbers["recovery"]["settings"]["catalogs"]["columns"]["class_star"] == "p"
    assert (SIZE, len(rows)) == (700, 169)
