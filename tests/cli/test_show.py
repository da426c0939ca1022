"""`skygraft show` writes one file of what was asked for, and says what is wrong in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from mocpy import MOC
from PIL import Image
from regions import Regions
from typer.testing import CliRunner

from kits.recovery_kit import make_recovery
from kits.views_kit import DEC, RA, copied, made
from skygraft.campaign import Campaign
from skygraft.cli import app
from skygraft.cli.showing import _place

__all__ = ["copied", "made"]

OUTPUT = "out/images/raw"


@pytest.fixture
def show(tmp_path, monkeypatch):
    """Run the command in an empty folder; the exit code, and what it printed."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["show", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, " ".join(result.output.split())

    return run


def size_of(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_without_options_it_draws_the_first_image(show, made) -> None:
    assert show(made) == (0, "small-triplet.png")
    assert size_of("small-triplet.png")[0] == 15 * 130
    code, said = show(made)
    assert code == 1 and "the file exists" in said and "--overwrite" in said
    before = Path("small-triplet.png").read_bytes()
    assert show(made, "--overwrite", "--theme", "dark", "--dpi", 40)[0] == 0
    assert Path("small-triplet.png").read_bytes() != before
    assert size_of("small-triplet.png")[0] == 600


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("--id", 5), "small-triplet-5.png"),
        (("--at", f"{RA} {DEC}", "--size", "0.2 arcmin"), "small-triplet-150.1_2.2.png"),
        (("--image", "testcam-502-2", "--whole"), "small-triplet-testcam-502-2.png"),
        (("--view", "blink", "--id", 5), "small-blink-5.gif"),
        (("--view", "grid", "--number", 4), "small-grid.png"),
        (("--view", "colour", "--at", f"{RA} {DEC}", "--size", 10), "small-colour-150.1_2.2.png"),
        (("--view", "colour", "--id", 5, "--bands", "r, g", "--size", 10), "small-colour-5.png"),
        (("--view", "sky"), "small-sky.png"),
    ],
)
def test_pictures_have_names_of_what_they_show(show, made, arguments, name) -> None:
    arguments = (made, *arguments, "--json", *(("--dpi", 40) if "blink" not in arguments else ()))
    code, said = show(*arguments)
    assert code == 0, said
    assert json.loads(said)["file"] == name
    assert min(size_of(name)) > 40
    assert [path.name for path in Path().iterdir()] == [name]


@pytest.mark.parametrize("ending", ["pdf", "svg", "jpg", "PNG"])
def test_the_ending_says_the_format(show, made, ending) -> None:
    assert show(made, "--id", 5, "--size", 6, "--dpi", 40, "-o", f"one.{ending}")[0] == 0
    magic = {"pdf": b"%PDF", "svg": b"<?xml", "jpg": b"\xff\xd8\xff", "PNG": b"\x89PNG"}[ending]
    content = Path(f"one.{ending}").read_bytes()
    assert content.startswith(magic)
    if ending == "svg":
        assert b"Star 5, g 18.00" in content  # as text


def test_files_for_other_software(show, made) -> None:
    assert show(made, "-o", "fakes.reg") == (0, "fakes.reg")
    assert len(Regions.read("fakes.reg", format="ds9")) == 12
    code, said = show(made, "--image", "testcam-502-2", "-o", "one.reg", "--frame", "fk5", "--json")
    assert code == 0 and json.loads(said)["n"] == 3
    orders = {}
    for name, kind in (("a.fits", "fits"), ("a.json", "json"), ("a.txt", "ascii")):
        assert show(made, "-o", name)[0] == 0
        orders[kind] = MOC.load(name, format=kind)
    assert orders["fits"] == orders["json"] == orders["ascii"]
    code, said = show(made, "--view", "moc", "--moc-order", 9, "--json")
    assert code == 0 and json.loads(said)["order"] == 9 and Path("small-moc.fits").exists()


def test_a_blink_may_be_a_png(show, made) -> None:
    assert show(made, "--id", 5, "-o", "one.gif")[0] == 0
    assert show(made, "--view", "blink", "--id", 5, "-o", "one.png")[0] == 0
    for name in ("one.gif", "one.png"):
        with Image.open(name) as film:
            assert film.n_frames == 2


def test_an_image_of_a_campaign_is_known(show, made) -> None:
    image = made.parent / OUTPUT / "far.fits"
    assert show(image) == (0, "small-triplet-testcam-502-2.png")
    assert show(image, "-o", "far.reg")[0] == 0
    assert len(Regions.read("far.reg", format="ds9")) == 3
    code, said = show(image, "--before", made, "--overwrite")
    assert code == 1 and "campaign small, which knows" in said
    code, said = show(image, "--image", "testcam-501-1")
    assert code == 1 and "both given" in said


def test_an_image_without_a_campaign(show, made) -> None:
    """As `skygraft inject` leaves it: the image before, and its truth."""
    Path("after.fits").write_bytes((made.parent / OUTPUT / "g.fits").read_bytes())
    code, said = show("after.fits")
    assert code == 1 and "no campaign wrote this image" in said and "--before" in said
    before = made.parent / "raw/g.fits"
    assert show("after.fits", "--before", before) == (0, "after-triplet.png")
    assert show("after.fits", "--before", before, "--at", f"{RA} {DEC}", "-o", "at.gif")[0] == 0
    code, said = show("after.fits", "--before", before, "--id", 5)
    assert code == 1 and "--truth" in said
    from astropy.table import Table

    Table({"injection_id": [5], "x": [107.0], "y": [109.0], "mag": [18.0], "stamp_size": [41],
           "source_type": ["Star"]}).write("truth.ecsv")  # fmt: skip
    arguments = ("after.fits", "--before", before, "--truth", "truth.ecsv")
    assert show(*arguments, "--id", 5) == (0, "after-triplet-5.png")
    code, said = show(*arguments, "--id", 6)
    assert code == 1 and "no source 6" in said
    assert "is of a campaign" in show("after.fits", "-o", "x.reg")[1]
    assert "differ in size" in show("after.fits", "--before", write_small(), "-o", "y.png")[1]


def write_small() -> str:
    from kits.plain_images import write_plain_image

    return str(write_plain_image(Path("small.fits"), RA, DEC, 100))


def test_found_and_missed(show, copied) -> None:
    code, said = show(copied, "--view", "grid", "--missed")
    assert code == 1 and "no recovery tables" in said and "skygraft recover" in said
    make_recovery(Campaign.from_yaml(copied), lambda row: row["mag"] < 20)
    assert show(copied, "--view", "grid", "--number", 3) == (0, "small-grid.png")
    assert show(copied, "--view", "grid", "--missed", "--number", 3, "--panels", "pair") == (0, "small-grid-missed.png")
    # Two sections, and one.
    assert size_of("small-grid.png")[1] > 1.5 * size_of("small-grid-missed.png")[1]
    make_recovery(Campaign.from_yaml(copied), lambda row: True)
    code, said = show(copied, "--view", "grid", "--missed", "--overwrite")
    assert code == 1 and "there are no missed fakes" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--at", "160 3"), ("no image shows the place", "nearest is", "deg away")),
        (("--at", "somewhere"), ("'somewhere' is not a place", "RA DEC")),
        (("--at", "10 95"), ("not a place",)),
        (("--at", "nan 2"), ("not a place",)),
        (("--id", 99), ("has the source 99", "1 and 12")),
        (("--id", 5, "--at", "150.1 2.2"), ("both given",)),
        (("--id", 5, "--size", "-3"), ("no size",)),
        (("--id", 5, "--size", "3 kg"), ("no size", "arcmin")),
        (("--image", "testcam-502"), ("no image 'testcam-502'", "mean 'testcam-502-2'")),
        (("--view", "colour", "--bands", "z,r,g"), ("no image of band z", "g, i, r")),
        (("--view", "colour", "--at", "150.16 2.25"), ("two or three bands", "are of r")),
        (("--bands", "g"), ("--bands is not an option of the view triplet", "colour")),
        (("--view", "moc", "--theme", "dark"), ("--theme is not an option of the view moc",)),
        (("--before", "x.fits"), ("--before and --truth are of an image",)),
        (("-o", "one.gif", "--view", "triplet"), ("view triplet is not written as .gif", "--view")),
        (("-o", "one.bmp"), ("not written as .bmp", ".png")),
        (("-o", "one"), ("a file without an ending",)),
        (("-o", "no/one.png"), ("there is no folder 'no'",)),
        (("-o", "one.reg", "--frame", "galactic"), ("frame is 'galactic'", "icrs")),
    ],
)
def test_what_cannot_be_shown(show, made, arguments, words) -> None:
    code, said = show(made, *arguments)
    assert code == 1
    for word in words:
        assert word in said
    assert not list(Path().iterdir())


def test_nothing_is_done(show, made, tmp_path) -> None:
    text = made.read_text().replace("output: out", f"output: {tmp_path / 'elsewhere'}")
    path = made.parent / "other.yaml"
    path.write_text(text)
    code, said = show(path)
    assert code == 1 and "the campaign has no plan yet" in said
    Campaign.from_yaml(path).plan(checks="none")
    for arguments in ((), ("-o", "a.fits")):
        code, said = show(path, *arguments)
        assert code == 1 and "no image of the campaign is done" in said and "skygraft run" in said
    path.unlink()


@pytest.mark.parametrize("target", ["no.fits", "no.yaml", "."])
def test_what_is_not_there(show, target) -> None:
    code, said = show(target)
    assert code == 1 and ("no such file" in said.lower() or "does not exist" in said.lower()), said


def test_inputs_are_never_replaced(show, copied) -> None:
    image = copied.parent / OUTPUT / "g.fits"
    before = image.read_bytes()
    code, said = show(image, "--view", "moc", "-o", image, "--overwrite")
    assert code == 1 and "the file is an input" in said
    assert image.read_bytes() == before and np.isfinite(fits.getdata(image)).all()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("150.1 2.2", (150.1, 2.2)),
        ("150.1,-2.2", (150.1, -2.2)),
        ("-10 +2", (350.0, 2.0)),
        ("10:00:24 +02:12:00", (150.1, 2.2)),
        ("10h00m24s -2d12m00s", (150.1, -2.2)),
    ],
)
def test_places_are_read_in_the_usual_forms(text, place) -> None:
    assert _place(text) == pytest.approx(place)
