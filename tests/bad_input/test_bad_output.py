"""Outputs that must not be written, and those that cannot be: nothing is lost and nothing half-written is left."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skygraft import inject, read_catalog, read_exposure, write_exposure
from skygraft.errors import OutputError, OutputExistsError

MOFFAT = {"kind": "moffat", "fwhm": "0.8 arcsec"}


def injected(night: Any) -> Any:
    exposure = read_exposure(night.image, psf=MOFFAT)
    return inject(exposure, read_catalog(night.catalog, band="r")).exposure


def test_an_output_that_exists(night: Any) -> None:
    night.out.write_text("precious")
    night.refused("out.fits", "exists already", "--overwrite")
    with pytest.raises(OutputExistsError, match="exists already"):
        write_exposure(injected(night), night.out)
    assert night.out.read_text() == "precious"
    result = night.inject("--overwrite")
    assert result.exit_code == 0, result.output
    assert fits.getheader(night.out)["INJECTED"] is True


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link", "another spelling"])
def test_the_input_is_never_overwritten(night: Any, how: str) -> None:
    other = night.folder / "other.fits"
    if how == "symbolic link":
        other.symlink_to(night.image)
    elif how == "hard link":
        os.link(night.image, other)
    else:
        other = night.image if how == "itself" else night.folder / ".." / night.folder.name / "image.fits"
    for more in ((), ("--overwrite",)):
        night.refused(other.name, "is the input itself", "never overwritten", "another output", out=other, more=more)
    night.refused("is the input itself", image=other, out=night.image, more=["--overwrite"])
    with pytest.raises(OutputExistsError, match="input itself"):
        write_exposure(injected(night), other, overwrite=True)


@pytest.mark.parametrize("which", ["image", "catalog"])
def test_neither_image_nor_truth_replaces_an_input(night: Any, which: str) -> None:
    """The catalogue is as precious as the image."""
    truth = night.image if which == "image" else night.catalog
    more = ["--truth", truth, "--overwrite"]
    night.refused(truth.name, "is the input itself", more=more)
    night.refused("fakes.ecsv", "is the input itself", out=night.catalog, more=["--overwrite"])


def test_image_and_truth_of_one_name(night: Any) -> None:
    night.refused("out.fits", "the same name", "--truth", more=["--truth", night.out])


def test_truth_that_cannot_be_written_is_noticed_before_the_work(night: Any) -> None:
    night.refused("truth.txt", ".parquet, .ecsv, .fits or .csv", more=["--truth", night.folder / "truth.txt"], code=2)
    missing = night.folder / "no" / "truth.ecsv"
    night.refused("truth.ecsv", "there is no directory", "Make it first", more=["--truth", missing])
    (night.folder / "truth.ecsv").write_text("precious")
    night.refused("truth.ecsv", "exists already", "--overwrite", more=["--truth", night.folder / "truth.ecsv"])


def test_folders_that_are_not_there(night: Any) -> None:
    night.refused("there is no directory", "Make it first", out=night.folder / "no" / "out.fits")
    (night.folder / "file").write_text("")
    night.refused("there is no directory", out=night.folder / "file" / "out.fits")


def test_an_output_that_is_a_folder_or_a_device(night: Any) -> None:
    """Renaming onto a device would replace it, for whoever is root."""
    folder = night.folder / "folder.fits"
    folder.mkdir()
    pipe = night.folder / "pipe.fits"
    os.mkfifo(pipe)
    for more in ((), ("--overwrite",)):
        night.refused("folder.fits", "a directory", "name of a file", out=folder, more=more)
        night.refused("pipe.fits", "no ordinary file", "name of a file", out=pipe, more=more)
    with pytest.raises(OutputExistsError):
        write_exposure(injected(night), pipe, overwrite=True)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_to_nowhere_is_an_output_that_exists(night: Any) -> None:
    night.out.symlink_to(night.folder / "gone" / "else.fits")
    night.refused("out.fits", "exists already")
    assert night.out.is_symlink()


def deny(monkeypatch: pytest.MonkeyPatch, number: int, name: str = "") -> None:
    """Let no file whose name begins with a dot (a temporary one) and has `name` in it be made."""
    opened = Path.open

    def refuse(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wxa+") and self.name.startswith(f".{name}"):
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only"), (errno.ENOSPC, "No space")]
)
def test_an_output_that_cannot_be_written(night: Any, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    exposure = injected(night)
    deny(monkeypatch, number)
    night.refused("cannot be written", words, "writable, and has room", str(night.folder))
    with pytest.raises(OutputError, match=words):
        write_exposure(exposure, night.out)


def test_a_mask_does_not_stay_behind_without_its_image(night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, errno.ENOSPC, "out.fits")
    night.refused("out.fits", "No space left", more=["--truth", night.folder / "truth.ecsv"])


def test_a_full_disk_leaves_nothing(night: Any, expect: Any) -> None:
    exposure = injected(night)  # also compiles what is compiled
    before = night.snapshot()
    with expect.full_disk(30_000):  # the image has 60480 bytes
        result = night.inject("--truth", night.folder / "truth.ecsv")
        with pytest.raises(OutputError, match=r"out\.fits"):
            write_exposure(exposure, night.out)
    expect.failed(result, "out.fits", "cannot be written", "has room")
    assert night.snapshot() == before
    # And with room again, nothing is in the way.
    assert night.inject("--truth", night.folder / "truth.ecsv").exit_code == 0


def test_a_full_disk_keeps_the_output_that_was_to_be_replaced(night: Any, expect: Any) -> None:
    assert night.inject().exit_code == 0
    before = night.snapshot()
    with expect.full_disk(30_000):
        result = night.inject("--overwrite", "--seed", "9")
    expect.failed(result, "cannot be written")
    assert fits.getheader(night.out)["INJECTED"] is True
    after = night.snapshot()
    assert {name for name in before if before[name] != after.get(name)} <= {"out.mask.fits"}
    assert set(after) == set(before)


def test_unicode_and_spaces_and_brackets(night: Any) -> None:
    folder = night.folder / "Nächte [1] ☆ {x}"
    folder.mkdir()
    image, catalog = folder / "Bild ü [2].fits", folder / "Quellen ñ.ecsv"
    shutil.copy(night.image, image)
    shutil.copy(night.catalog, catalog)
    out, truth = folder / "aus ☆.fits", folder / "wahr ☆.fits"
    result = night.inject("--truth", truth, image=image, catalog=catalog, out=out)
    assert result.exit_code == 0, result.output
    assert len(Table.read(truth)) == 9
    assert "CALAPRAD = 12.0 in Bild ü [2].fits" in result.stdout
    night.refused("aus ☆.fits", "exists already", image=image, catalog=catalog, out=out)


def test_relative_paths_from_another_folder(night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (night.folder / "elsewhere").mkdir()
    monkeypatch.chdir(night.folder / "elsewhere")
    result = night.inject(image="../image.fits", catalog="../fakes.ecsv", out="out.fits")
    assert result.exit_code == 0, result.output
    assert np.isfinite(fits.getdata(night.folder / "elsewhere" / "out.fits")).all()
    night.refused("is the input itself", image="../image.fits", out="../elsewhere/../image.fits", more=["--overwrite"])


def test_an_index_replaces_no_image(night: Any, expect: Any) -> None:
    before = night.snapshot()
    expect.failed(night.run("index", night.image, "-o", night.image), "image.fits", "is the input itself")
    expect.failed(night.run("index", night.image, "-o", night.folder), "a directory", "name of a file")
    expect.failed(night.run("index", night.image, "-o", night.folder / "no" / "i.parquet"), "Make it first")
    expect.failed(night.run("index", str(night.folder / "zz*")), "no images found", "zz*", "--root")
    assert night.snapshot() == before


def test_a_plot_that_cannot_be_drawn(night: Any, expect: Any) -> None:
    path = night.write_campaign()
    before = night.snapshot()
    expect.failed(night.run("verify", path, "--plot", night.image), "image.fits", ".png", "Change its ending")
    expect.failed(night.run("verify", path, "--plot", night.folder / "no" / "x.png"), "x.png", "there is no folder")
    assert night.snapshot() == before


def test_a_mask_of_somebody_else_is_not_replaced(night: Any) -> None:
    (night.folder / "out.mask.fits").write_text("precious")
    night.refused("out.mask.fits", "exists already", "--overwrite")
