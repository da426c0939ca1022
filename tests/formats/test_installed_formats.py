"""Formats that installed packages add by entry points of the group `skygraft.formats`."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skygraft.errors import ConfigError, SkygraftWarning
from skygraft.formats import available, format_names, get_format, read_exposure, recognise_format, write_exposure

CARDS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -20.0, "CRPIX1": 10.0, "CRPIX2": 10.0}
MODULE = """
from pathlib import Path

from skygraft.formats import get_format


class MosaicFormat(type(get_format("fits"))):
    name = "mosaic"
    looked_for = "a name that ends in .mosaic.fits"

    def matches(self, path):
        return Path(path).name.endswith(".mosaic.fits")
"""


def clear() -> None:
    for cached in (available._installed, available._load, available._specific):
        cached.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a package of one module and one entry point, as pip would leave it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules: list[str] = []

    def put(package: str, entry: str, source: str) -> None:
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[skygraft.formats]\n{entry}\n")
        (site / f"{package}.py").write_text(source)
        modules.append(package)
        importlib.invalidate_caches()
        clear()

    yield put
    for module in modules:
        sys.modules.pop(module, None)
    monkeypatch.undo()
    clear()


def image(path: Path) -> Path:
    hdu = fits.PrimaryHDU(np.ones((20, 30), np.float32))
    hdu.header.update(CARDS | {"CD1_1": -1e-4, "CD2_2": 1e-4})
    hdu.writeto(path)
    return path


def test_an_installed_format_is_one_like_the_others(install: Callable[..., None], tmp_path: Path) -> None:
    install("mosaic_reader", "mosaic = mosaic_reader:MosaicFormat", MODULE)
    assert format_names()[-2:] == ("mosaic", "fits")  # tried before ordinary FITS
    path = image(tmp_path / "a.mosaic.fits")
    assert recognise_format(path).name == "mosaic" and recognise_format(image(tmp_path / "b.fits")).name == "fits"
    exposure = read_exposure(path)
    assert exposure.format == "mosaic" and read_exposure(path, format="mosaic").format == "mosaic"
    assert pickle.loads(pickle.dumps(get_format("mosaic"))).name == "mosaic"
    assert write_exposure(exposure, tmp_path / "out.mosaic.fits") == (tmp_path / "out.mosaic.fits",)
    with pytest.raises(ConfigError, match="Did you mean 'mosaic'"):
        get_format("mosiac")


@pytest.mark.parametrize(
    ("entry", "source", "reason"),
    [
        ("mosaic = broken_reader:MosaicFormat", "import a_module_that_moved", "No module named 'a_module_that_moved'"),
        ("mosaic = broken_reader:Mosaic", MODULE, "has no attribute 'Mosaic'"),
        ("mosaic = broken_reader:Path", MODULE, "is not a skygraft.formats.Format"),
        ("other = broken_reader:MosaicFormat", MODULE, "whose name is 'other'"),
    ],
)
def test_a_broken_package_stops_no_other_format(
    install: Callable[..., None], tmp_path: Path, entry: str, source: str, reason: str
) -> None:
    install("broken_reader", entry, source)
    with pytest.warns(SkygraftWarning, match=f"package broken_reader.*{reason}.*are not recognised"):
        assert read_exposure(image(tmp_path / "a.fits")).format == "fits"
    with pytest.raises(ConfigError, match=f"{reason}.*Update or uninstall"):
        get_format(entry.split(maxsplit=1)[0])
    assert get_format("fits").name == "fits"


def test_names_are_unique(install: Callable[..., None], tmp_path: Path) -> None:
    for package in ("one_reader", "other_reader"):
        install(package, f"mosaic = {package}:MosaicFormat", MODULE)
    with pytest.raises(ConfigError, match=r"several packages add a format 'mosaic': .*one_reader.*other_reader"):
        get_format("mosaic")


def test_a_package_cannot_replace_a_format_of_skygraft(install: Callable[..., None], tmp_path: Path) -> None:
    install("fits_reader", "fits = fits_reader:MosaicFormat", MODULE)
    with pytest.warns(SkygraftWarning, match="package fits_reader is ignored, since skygraft has a format of that"):
        assert recognise_format(image(tmp_path / "a.mosaic.fits")).name == "fits"
    assert format_names().count("fits") == 1
