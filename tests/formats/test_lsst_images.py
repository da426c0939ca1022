"""Rubin's own files: what its library says of them is what is read, and its library reads what is written."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import QTable

from skygraft import inject, read_exposure, write_exposure
from skygraft.catalog import Flag
from skygraft.errors import CorruptFileError, FormatError, OutputError, SkygraftError
from skygraft.fitsfile.cards import header_of
from skygraft.fitsfile.open import map_fits
from skygraft.formats import read_calibration, read_footprint
from skygraft.formats.conformance import check_format
from skygraft.formats.lsst_images import LsstImagesFormat
from skygraft.formats.lsst_images_fits import write_planes
from skygraft.psf import CellPSF, KernelBasisPSF, check_psf

pytestmark = pytest.mark.data
serialization = pytest.importorskip("lsst.images.serialization")

FILES = {
    "visit": "visit_image-1.0.0-dp1.json",
    "visit, FITS": "dp1_visit_image.fits",
    "difference": "difference_image-1.0.0-dp2.json",
    "coadd": "cell_coadd-1.0.0-canonical.json",
    "coadd, FITS": "dp1_cell_coadd.fits",
}


@pytest.fixture(params=FILES.values(), ids=FILES.keys())
def path(request: pytest.FixtureRequest, data_dir: Path) -> Path:
    return data_dir / "rubin" / request.param


def positions(exposure: Any) -> tuple[np.ndarray, np.ndarray]:
    (x0, y0), (ny, nx) = exposure.xy0, exposure.shape
    x, y = np.meshgrid(x0 + np.array([0.7, nx - 1.2]), y0 + np.array([1.3, ny - 0.9]))
    return x.ravel(), y.ravel()


def stars(exposure: Any) -> QTable:
    x, y = positions(exposure)
    ra, dec = exposure.wcs.pixel_to_world_values(x, y)
    rows = {"injection_id": np.arange(len(x)), "ra": ra, "dec": dec, "source_type": np.full(len(x), "Star")}
    return QTable(rows | {"mag_r": np.full(len(x), 21.0)})


def test_conformance(path: Path, tmp_path: Path) -> None:
    check_format(LsstImagesFormat(), path, tmp_path)


def test_agrees_with_its_library(path: Path) -> None:
    exposure, image = read_exposure(path), serialization.read_archive(str(path))
    np.testing.assert_array_equal(exposure.image, image.image.array)
    np.testing.assert_array_equal(exposure.variance, image.variance.array)
    for name, value in exposure.mask_planes.items():
        np.testing.assert_array_equal((exposure.mask & value) != 0, image.mask.get(name))
    x, y = positions(exposure)
    sky = image.sky_projection.pixel_to_sky(x=x, y=y)
    np.testing.assert_allclose(
        np.transpose(exposure.wcs.pixel_to_world_values(x, y)), np.stack([sky.ra.deg, sky.dec.deg], 1), atol=1e-11
    )
    np.testing.assert_allclose(
        np.transpose(exposure.wcs.world_to_pixel_values(sky.ra.deg, sky.dec.deg)), np.stack([x, y], 1), atol=1e-6
    )
    defined = exposure.psf.defined(x, y)
    for i in range(len(x)):
        if not defined[i]:
            with pytest.raises(Exception, match="missing"):
                image.psf.compute_kernel_image(x=x[i], y=y[i])
            continue
        expected = image.psf.compute_kernel_image(x=x[i], y=y[i]).array
        np.testing.assert_allclose(
            exposure.psf.kernels(x[i : i + 1], y[i : i + 1])[0], expected, atol=1e-9 * expected.max()
        )
    check_psf(exposure.psf, x[defined], y[defined])
    assert float(exposure.photo_calib.inst_flux(20.0, x[0], y[0])) == pytest.approx(
        10 ** (0.4 * (31.4 - 20)), rel=1e-12
    )


@pytest.mark.parametrize(
    ("name", "identity", "psf", "mjd"),
    [
        ("visit", ("LSSTComCam", 2024110800246, 0, None, None, "r"), KernelBasisPSF, 60623.25932904),
        ("difference", ("LSSTCam", 3277205294330000, 85, None, None, "r"), KernelBasisPSF, 60816.06343342),
        ("coadd", ("LSSTCam", None, None, 9813, 43, "r"), CellPSF, None),
    ],
)
def test_what_it_is(data_dir: Path, name: str, identity: tuple[Any, ...], psf: type, mjd: float | None) -> None:
    exposure = read_exposure(data_dir / "rubin" / FILES[name])
    one = exposure.data_id
    assert (one.instrument, one.visit, one.detector, one.tract, one.patch, one.band) == identity
    assert type(exposure.psf) is psf
    assert exposure.visit_info.mjd == (None if mjd is None else pytest.approx(mjd, abs=1e-7))
    assert exposure.photo_calib.aperture.radius_pixels == 12
    assert "default of the LSST pipelines" in exposure.photo_calib.reference_origin


def test_its_library_reads_what_is_written(path: Path, tmp_path: Path) -> None:
    exposure = read_exposure(path)
    injection = inject(exposure, stars(exposure), band="r", seed=1, gain=0.02)
    out = tmp_path / f"out{path.suffix}"
    write_exposure(injection.exposure, out)
    before, after = (serialization.read_archive(str(p)) for p in (path, out))
    np.testing.assert_array_equal(after.image.array, injection.exposure.image)
    np.testing.assert_array_equal(after.variance.array, injection.exposure.variance)
    assert after.mask.schema.names - before.mask.schema.names == {"INJECTED", "INJECTED_CORE"}
    touched = after.mask.get("INJECTED")
    assert touched.any()
    for name in before.mask.schema.names:
        np.testing.assert_array_equal(after.mask.get(name), before.mask.get(name))
    added = dict(after.metadata)
    assert added.pop("skygraft_injected") is True
    assert added.pop("skygraft_calibration_radius_pixels") == 12.0
    assert "12 pix" in added.pop("skygraft_calibration_reference")
    assert "default" in added.pop("skygraft_calibration_origin")
    assert added == dict(before.metadata)
    assert (after.sky_projection, after.bbox, after.unit) == (before.sky_projection, before.bbox, before.unit)
    x, y = positions(exposure)
    where = np.flatnonzero(exposure.psf.defined(x, y))[0]
    kernels = [image.psf.compute_kernel_image(x=x[where], y=y[where]).array for image in (before, after)]
    np.testing.assert_array_equal(*kernels)
    again = read_exposure(out)
    assert again.mask_planes == injection.exposure.mask_planes
    if path.suffix == ".fits":
        again_out = tmp_path / "again.fits"
        write_exposure(injection.exposure, again_out)
        assert again_out.read_bytes() == out.read_bytes()
        with map_fits(path) as old, map_fits(out) as new:
            names = [str(header_of(old.header_cards(s.index)).get("EXTNAME")) for s in old.spans]
            spans = zip(names, old.spans, new.spans, strict=True)
            same = {n for n, s, t in spans if old.buffer[s.start : s.end] == new.buffer[t.start : t.end]}
        changed = {"IMAGE", "MASK", "VARIANCE", "JSON"}
        # The index and the primary HDU's addresses change where another HDU takes more blocks than it did.
        assert changed <= set(names) - same <= changed | {"None", "INDEX"}
        assert names[4:-2], "there are others"


@pytest.mark.parametrize("name", ["visit, FITS", "coadd, FITS"])
def test_hdus_that_grow_are_found(data_dir: Path, tmp_path: Path, name: str) -> None:
    """A tree that takes more blocks moves the index, and a mask header that does moves everything behind it."""
    path, out = data_dir / "rubin" / FILES[name], tmp_path / "out.fits"
    exposure = read_exposure(path)
    cards = {f"NOTE{i}": ("x" * 60, "") for i in range(100)}

    def edit(tree: dict[str, Any]) -> None:
        tree["metadata"] = {"note": "long " * 2000}

    write_planes(path, out, {"MASK": exposure.mask}, cards, edit)
    before, after = (serialization.read_archive(str(p)) for p in (path, out))
    assert after.metadata["note"] == "long " * 2000
    np.testing.assert_array_equal(after.image.array, before.image.array)
    np.testing.assert_array_equal(after.variance.array, before.variance.array)
    np.testing.assert_array_equal(after.mask.array, before.mask.array)
    x, y = positions(exposure)
    where = np.flatnonzero(exposure.psf.defined(x, y))[0]
    kernels = [image.psf.compute_kernel_image(x=x[where], y=y[where]).array for image in (before, after)]
    np.testing.assert_array_equal(*kernels)
    assert out.stat().st_size > path.stat().st_size + 2 * 2880


def test_a_star_in_a_cell_without_data_is_flagged(data_dir: Path) -> None:
    exposure = read_exposure(data_dir / "rubin" / FILES["coadd"])
    truth = inject(exposure, stars(exposure), band="r", seed=1, gain=0.02).truth
    missing = ~exposure.psf.defined(truth["x"], truth["y"])
    assert missing.sum() == 1
    np.testing.assert_array_equal((truth["flags"] & int(Flag.PSF_COMPUTE_ERROR)) != 0, missing)
    assert (truth["flux_deposited"][~missing] > 0).all()


class TestBadInput:
    def write(self, data_dir: Path, tmp_path: Path, **changes: Any) -> Path:
        tree = json.loads((data_dir / "rubin" / FILES["visit"]).read_text())
        path = tmp_path / "image.json"
        path.write_text(json.dumps({k: v for k, v in (tree | changes).items() if v is not ...}))
        return path

    def test_newer_schema(self, data_dir: Path, tmp_path: Path) -> None:
        path = self.write(data_dir, tmp_path, min_read_version=99)
        with pytest.raises(CorruptFileError, match="update that library") as caught:
            read_exposure(path)
        assert str(path) in str(caught.value)

    def test_part_of_the_tree_is_missing(self, data_dir: Path, tmp_path: Path) -> None:
        with pytest.raises(CorruptFileError, match=r"lsst\.images cannot read"):
            read_exposure(self.write(data_dir, tmp_path, image=...))

    def test_truncated(self, path: Path, tmp_path: Path) -> None:
        cut = tmp_path / path.name
        cut.write_bytes(path.read_bytes()[:-20000])
        with pytest.raises((CorruptFileError, FormatError)):
            read_exposure(cut, format="lsst_images")

    def test_what_is_no_image(self, tmp_path: Path) -> None:
        path = tmp_path / "thing.json"
        path.write_text('{"schema_url": "https://images.lsst.io/schemas/color_image-1.0.0"}')
        with pytest.raises(FormatError, match="holds a color_image"):
            read_exposure(path)

    def test_without_the_library(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "lsst.images.serialization", None)
        with pytest.raises(FormatError, match=r"pip install 'skygraft\[rubin\]'"):
            read_exposure(data_dir / "rubin" / FILES["visit, FITS"])

    def test_another_ending(self, data_dir: Path, tmp_path: Path) -> None:
        exposure = read_exposure(data_dir / "rubin" / FILES["visit, FITS"])
        with pytest.raises(OutputError, match="same ending"):
            write_exposure(exposure, tmp_path / "out.json")
        assert not any(tmp_path.iterdir())

    def test_a_full_mask(self, data_dir: Path, tmp_path: Path) -> None:
        image = serialization.read_archive(str(data_dir / "rubin" / FILES["visit"]))
        from lsst.images import MaskPlane

        image.mask = image.mask.add_planes([MaskPlane(f"P{i}", "") for i in range(32 - len(image.mask.schema))])
        path = tmp_path / "full.json"
        serialization.write_archive(image, str(path))
        exposure = read_exposure(path)
        assert len(exposure.mask_planes) == 32
        with pytest.raises(FormatError, match="all 31 are taken"):
            inject(exposure, stars(exposure), band="r", seed=1, gain=0.02)
        image.mask = image.mask.add_plane("ONE_MORE", "")
        serialization.write_archive(image, str(tmp_path / "more.json"))
        with pytest.raises(FormatError, match="33 planes; 32 fit"):
            read_exposure(tmp_path / "more.json")

    @pytest.mark.parametrize("name", ["", "TWO WORDS"])
    def test_a_mask_plane_without_a_proper_name(self, data_dir: Path, tmp_path: Path, name: str) -> None:
        text = (data_dir / "rubin" / FILES["visit"]).read_text()
        assert '"INTERPOLATED"' in text
        path = tmp_path / "renamed.json"
        path.write_text(text.replace('"INTERPOLATED"', f'"{name}"'))
        with pytest.raises(FormatError, match=r"named .*a word is needed"):
            read_exposure(path)


def test_copies_are_recognised(path: Path, tmp_path: Path) -> None:
    copy = shutil.copyfile(path, tmp_path / f"renamed{path.suffix}")
    assert read_exposure(copy).format == "lsst_images"


def test_a_source_table_says_the_aperture(data_dir: Path, tmp_path: Path) -> None:
    image = Path(shutil.copy(data_dir / "rubin" / FILES["visit, FITS"], tmp_path / "visit_image-2024110800246-0.fits"))
    table = Path(shutil.copy(data_dir / "cfht_849375" / "SRC-849375-12.parq", tmp_path / "sources.parq"))
    assert "schema" not in {c.level for c in read_exposure(image).photo_calib.candidates}
    given = read_exposure(image, source_catalog=table).photo_calib
    assert {c.radius_pixels for c in given.candidates if c.level == "schema"} == {12.0}
    assert given.aperture.radius_pixels == 12.0 and table.name in given.reference_origin
    beside = table.rename(tmp_path / "sourceTable-2024110800246-0.parq")
    assert beside.name in read_exposure(image).photo_calib.reference_origin
    assert [Path(f).name for f in LsstImagesFormat().footprint(image).files] == [image.name, beside.name]
    with pytest.raises(CorruptFileError, match="absent"):
        read_exposure(image, source_catalog=tmp_path / "absent.parq")


@pytest.mark.parametrize("name", FILES)
def test_no_pixels_are_read_to_know_where_an_image_lies(
    data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = data_dir / "rubin" / FILES[name]
    whole = read_exposure(path)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the whole file is read")

    monkeypatch.setattr(serialization, "read_archive", refuse)
    monkeypatch.setattr(importlib.import_module("lsst.images").Image, "__init__", refuse)
    found = LsstImagesFormat().footprint(path)
    assert (found.shape, found.xy0, found.data_id) == (whole.shape, whole.xy0, whole.data_id)
    assert found.visit_info == whole.visit_info


@pytest.mark.parametrize("name", FILES)
def test_the_calibration_alone_is_that_of_the_whole(data_dir: Path, name: str) -> None:
    path = data_dir / "rubin" / FILES[name]
    whole, found = read_exposure(path), LsstImagesFormat().calibration(path)
    assert (found.shape, found.xy0, found.unit) == (whole.shape, whole.xy0, "nJy")
    assert found.candidates == whole.photo_calib.candidates
    x, y = (np.array([v]) for v in whole.box.center)
    np.testing.assert_array_equal(found.wcs.pixel_to_world_values(x, y), whole.wcs.pixel_to_world_values(x, y))
    if whole.psf.defined(x, y).all():
        np.testing.assert_array_equal(found.psf.kernels(x, y), whole.psf.kernels(x, y))


def test_a_mapping_that_the_library_cannot_show(data_dir: Path, tmp_path: Path) -> None:
    """Its AST dump is looked at when the sky projection is used, not when the file is read."""
    text = (data_dir / "rubin" / FILES["coadd"]).read_text()
    assert "Compound Mapping\\n          Nin = 2" in text
    path = tmp_path / "coadd.json"
    path.write_text(text.replace("Compound Mapping\\n          Nin = 2", "Compound Mapping\\n          Nin = -1"))
    for read in (read_exposure, read_calibration, read_footprint):
        with pytest.raises(SkygraftError, match=r"coadd\.json"):
            read(path)


@pytest.mark.parametrize(("old", "new"), [("Begin WcsMap", "Begin WcsMap_"), ("End WcsMap", "End PcdMap")])
@pytest.mark.parametrize("name", ["coadd", "coadd, FITS"])
def test_a_dump_that_ends_the_process_is_refused_before(
    data_dir: Path, tmp_path: Path, name: str, old: str, new: str
) -> None:
    content = (data_dir / "rubin" / FILES[name]).read_bytes()
    assert old.encode() in content
    path = tmp_path / f"coadd{Path(FILES[name]).suffix}"
    # At the same length: a FITS file's tree keeps its place.
    spare = len(new) - len(old)
    damaged = content.replace(old.encode() + b" " * spare, new.encode(), 1)
    assert len(damaged) == len(content) and damaged != content
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError, match="AST dump of its transforms is damaged"):
        read_exposure(path)


@pytest.mark.parametrize("name", ["coadd, FITS", "visit, FITS"])
def test_moved_hdus_are_not_taken_for_each_other(data_dir: Path, tmp_path: Path, name: str) -> None:
    # The library finds planes by the bytes that the index gives, whatever plane is there.
    whole, moved = data_dir / "rubin" / FILES[name], tmp_path / FILES[name]
    with map_fits(whole) as raw:
        names = [str(header_of(raw.header_cards(s.index)).get("EXTNAME", "")) for s in raw.spans]
        order = list(range(len(names)))
        image, variance = names.index("IMAGE"), names.index("VARIANCE")
        order[image], order[variance] = variance, image
        moved.write_bytes(b"".join(bytes(raw.buffer[raw.spans[i].start : raw.spans[i].end]) for i in order))
    for read in (read_exposure, read_calibration, read_footprint):
        with pytest.raises(
            CorruptFileError, match=r"the index says that \w+ begins at byte .* HDU \d+ \(\w+\) is there|no HDU begins"
        ):
            read(moved)


def test_a_primary_header_that_points_elsewhere_is_refused(data_dir: Path, tmp_path: Path) -> None:
    content = (data_dir / "rubin" / FILES["coadd, FITS"]).read_bytes()
    card = content[content.index(b"JSONADDR") :][:80]
    address = card[10:30]
    changed = card.replace(address, f"{int(address) + 2880:>20}".encode())
    path = tmp_path / "coadd.fits"
    path.write_bytes(content.replace(card, changed, 1))
    with pytest.raises(CorruptFileError, match="JSONADDR says that the HDU JSON begins at byte"):
        read_exposure(path)
