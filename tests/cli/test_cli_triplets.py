"""`skygraft triplets` writes one file, says what is in it, and what is wrong in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kits.triplets_kit import TEMPLATE_FWHM, write_pair
from skygraft.cli import app
from skygraft.views import open_triplets


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["triplets", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_it_writes_what_it_says(pair, tmp_path) -> None:
    path = tmp_path / "t.zarr"
    code, said = run(pair[0], "--template", pair[1], "-o", path, "--size", 31, "--random", 1, "--json")
    counts = json.loads(said)
    assert (code, counts["n_real"], counts["n_bogus"], counts["skipped"]) == (0, 6, 2, {"constant": 4})
    assert dict(open_triplets(path).sizes) == {"triplet": 8, "row": 31, "column": 31}
    code, said = run(pair[0], "-o", path)
    assert code == 1 and "--overwrite" in said
    code, said = run(pair[0], "-o", path, "--overwrite", "--per-image", 2)
    assert code == 0 and "4 real and 4 bogus triplets of 2 images" in said


def test_files_as_templates_with_their_psf(pair, tmp_path) -> None:
    files = pair[1].parent / "templates/*.fits"
    psf = f"gaussian:{TEMPLATE_FWHM} arcsec"
    code, said = run(pair[0], "--template", files, "--psf", psf, "-o", tmp_path / "t.h5")
    assert code == 0 and "10 real and 10 bogus" in said
    code, said = run(pair[0], "--template", files, "-o", tmp_path / "u.h5")
    assert code == 1 and "no template covers" in said and "no PSF" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--psf", "gaussian:1 arcsec"), "given without a template"),
        (("--size", "30"), "size is 30"),
        (("--detections", "absent.parquet"), "absent.parquet"),
        (("--template", "absent.fits"), "no template can be read"),
    ],
)
def test_what_is_refused(pair, tmp_path, arguments, said) -> None:
    code, output = run(pair[0], "-o", tmp_path / "t.h5", *arguments)
    assert code == 1 and said in " ".join(output.split())
    assert list(tmp_path.iterdir()) == []
