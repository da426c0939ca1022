"""Roman images: files written by asdf itself, read with their calibration and written back byte for byte."""

from __future__ import annotations

import warnings
from pathlib import Path

import asdf
import numpy as np
import pytest
from asdf.util import load_yaml

from kits.space_images import PHOTONS, PSF, SIZE, pipeline, write_roman
from skygraft import inject
from skygraft.errors import (
    CalibrationError,
    ConfigError,
    CorruptFileError,
    FormatError,
    OutputExistsError,
    UncalibratedImageError,
    UnknownFormatError,
    WcsError,
)
from skygraft.formats import read_exposure, read_footprint, write_exposure
from skygraft.formats.asdf_blocks import map_asdf
from skygraft.formats.conformance import check_format
from skygraft.formats.roman import RomanFormat
from skygraft.photometry import TOTAL
from skygraft.wcs import gwcs as gwcs_module

TAGS = "asdf://stsci.edu/datamodels/roman/tags/"


def catalogue(exposure, mag: float = 20.0) -> dict[str, list[object]]:
    ra, dec = exposure.wcs.pixel_to_world_values(47.3, 44.8)
    return {
        "injection_id": [1],
        "ra": [ra],
        "dec": [dec],
        "source_type": ["Star"],
        f"mag_{exposure.data_id.band}": [mag],
    }


def changed(exposure):
    from astropy.table import QTable

    return inject(exposure, QTable(catalogue(exposure)), seed=3, image_id="x")


def trees(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            return {key: np.array(value) for key, value in file["roman"].items() if key != "meta"}


@pytest.mark.parametrize(("mosaic", "compression"), [(False, None), (True, "zlib")])
def test_conformance(tmp_path, mosaic, compression) -> None:
    path = write_roman(tmp_path / "r1_cal.asdf", mosaic=mosaic, compression=compression)
    (tmp_path / "out").mkdir()
    check_format(RomanFormat(), path, tmp_path / "out")


def test_exposure(tmp_path) -> None:
    path = write_roman(tmp_path / "r1_cal.asdf", mosaic=False)
    exposure = read_exposure(path)
    stored = trees(path)
    assert exposure.format == "roman"
    np.testing.assert_array_equal(exposure.image, stored["data"])
    np.testing.assert_array_equal(exposure.variance, stored["err"].astype(np.float32) ** 2)
    assert str(exposure.data_id) == "r1_cal"
    assert exposure.data_id.as_dict() == {
        "instrument": "WFI", "detector": "WFI07", "band": "F158", "name": "r1_cal",
    }  # fmt: skip
    # Half of two minutes, and 37 leap seconds to TAI.
    assert exposure.visit_info.mjd == pytest.approx(61406 + 97 / 86400, abs=1e-9)
    assert exposure.visit_info.exposure_time == 107.0
    flags = {"DO_NOT_USE": 1, "SATURATED": 2, "JUMP_DET": 4, "OUTLIER": 128, "REFERENCE_PIXEL": -(2**31)}
    assert exposure.mask_planes == flags
    assert exposure.bad("OUTLIER")[20, 30] and exposure.bad("DO_NOT_USE").sum() == 1
    # DN/s x MJy/sr x sr; AB = 8.90 - 2.5 log10(Jy).
    jansky = 0.7e6 * (0.11 / 206264.806247) ** 2
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(8.9 - 2.5 * np.log10(jansky), abs=1e-4)
    assert exposure.photo_calib.reference is TOTAL and "apcorr" in exposure.photo_calib.reference_origin
    assert "coadd_noise" not in exposure.extra
    x, y = np.random.default_rng(1).uniform(-5, 100, (2, 50))
    np.testing.assert_allclose(
        exposure.wcs.pixel_to_world_values(x, y),
        pipeline(distorted=True, scale=0.11).forward_transform(x, y),
        atol=1e-12,
    )
    assert read_footprint(path).corners.shape == (32, 2)


def test_mosaic(tmp_path) -> None:
    exposure = read_exposure(write_roman(tmp_path / "r1_coadd.asdf", mosaic=True))
    assert exposure.planes["image"].attrs["units"] == "MJy/sr" and "coadd_noise" in exposure.extra
    jansky = 1e6 * (0.11 / 206264.806247) ** 2
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(8.9 - 2.5 * np.log10(jansky), abs=1e-4)
    assert exposure.visit_info.mjd == pytest.approx(61406 + 97 / 86400, abs=1e-9)
    assert exposure.data_id.detector is None and exposure.visit_info.exposure_time == 500.0


@pytest.mark.parametrize("compression", [None, "zlib", "bzp2", "lz4"])
def test_what_did_not_change_is_the_same(tmp_path, compression) -> None:
    path = write_roman(tmp_path / "a_cal.asdf", mosaic=False, compression=compression)
    injection = changed(read_exposure(path, psf=PSF))
    target = tmp_path / "out" / "a_cal.asdf"
    target.parent.mkdir()
    written = write_exposure(injection.exposure, target)
    assert [p.name for p in written] == ["a_cal.asdf", "a_cal.mask.fits"]
    with map_asdf(path) as old, map_asdf(target) as new:
        # The tree is the same byte for byte, unknown tags and versions included.
        assert bytes(old.buffer[: old.spans[0].start]) == bytes(new.buffer[: new.spans[0].start])
        before, after = ([bytes(f.buffer[s.start : s.end]) for s in f.spans] for f in (old, new))
    sources = load_yaml(path)["roman"]
    moved = {int(sources[key]["source"]) for key in ("data", "err", "var_poisson")}
    assert {i for i, (one, other) in enumerate(zip(before, after, strict=True)) if one != other} == moved
    assert load_yaml(path) == load_yaml(target)
    # asdf reads it with all checksums verified, and through the index of the blocks.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with asdf.open(target, validate_checksums=True, lazy_load=True) as file:
            np.testing.assert_array_equal(np.array(file["roman"]["data"]), injection.exposure.image)
            np.testing.assert_array_equal(np.array(file["roman"]["amp33"]).ravel(), np.arange(512))
    stored, original = trees(target), trees(path)
    np.testing.assert_array_equal(stored["dq"], original["dq"])
    assert sorted(stored) == sorted(original)


def test_photon_noise_follows_var_poisson_and_is_added_to_it(tmp_path) -> None:
    path = write_roman(tmp_path / "a_coadd.asdf", mosaic=True)
    injection = changed(read_exposure(path, psf=PSF))
    assert injection.summary["gain"] == pytest.approx(PHOTONS, rel=0.01)
    write_exposure(injection.exposure, tmp_path / "new_coadd.asdf")
    old, new = trees(path), trees(tmp_path / "new_coadd.asdf")
    more = injection.exposure.variance - old["err"] ** 2
    assert more.max() > 0.01
    np.testing.assert_allclose(new["var_poisson"] - old["var_poisson"], more, atol=1e-5 * more.max())
    np.testing.assert_allclose(new["err"] ** 2 - old["err"] ** 2, more, atol=1e-5 * more.max())


def test_closure(tmp_path) -> None:
    exposure = read_exposure(write_roman(tmp_path / "a_coadd.asdf", mosaic=True), psf=PSF)
    from astropy.table import QTable

    made = inject(exposure, QTable(catalogue(exposure)), noise=False, seed=1)
    added = np.sum(made.exposure.image.astype(float) - exposure.image)
    flux = added * 1e6 * (0.11 / 206264.806247) ** 2
    assert 8.9 - 2.5 * np.log10(flux) == pytest.approx(20.0, abs=1e-3)


def test_marks_are_read_again_and_more_sources_added(tmp_path) -> None:
    path = write_roman(tmp_path / "a_cal.asdf", mosaic=False)
    write_exposure(changed(read_exposure(path, psf=PSF)).exposure, tmp_path / "b_cal.asdf")
    again = read_exposure(tmp_path / "b_cal.asdf", psf=PSF)
    assert again.mask_planes["INJECTED"] and (again.mask & again.mask_planes["INJECTED"]).any()
    assert [Path(f).name for f in read_footprint(tmp_path / "b_cal.asdf").files] == ["b_cal.asdf", "b_cal.mask.fits"]
    write_exposure(changed(again).exposure, tmp_path / "c_cal.asdf")
    assert (tmp_path / "c_cal.mask.fits").is_file()
    with pytest.raises(OutputExistsError):
        write_exposure(again, tmp_path / "c_cal.asdf")


def test_a_changed_flag_of_the_mission_is_refused(tmp_path) -> None:
    exposure = read_exposure(write_roman(tmp_path / "a_cal.asdf", mosaic=False))
    planes = exposure.planes.copy(deep=True)
    planes["mask"].values[5, 5] |= 2
    with pytest.raises(FormatError, match="SATURATED was changed"):
        write_exposure(exposure.replace(planes=planes), tmp_path / "b_cal.asdf")
    assert not (tmp_path / "b_cal.asdf").exists()


@pytest.mark.parametrize(
    ("meta", "error", "match"),
    [
        (
            {"photometry": {"conversion_megajanskys": None}},
            UncalibratedImageError,
            "conversion_megajanskys is not given",
        ),
        ({"photometry": {"conversion_megajanskys": -999999.0}}, UncalibratedImageError, "is not given"),
        ({"photometry": {"pixel_area": 1e-12}}, CalibrationError, "two areas of a pixel disagree"),
    ],
)
def test_uncalibrated(tmp_path, meta, error, match) -> None:
    path = write_roman(tmp_path / "a_cal.asdf", mosaic=False, **meta)
    if error is CalibrationError:
        with pytest.raises(CalibrationError, match=match):
            read_exposure(path)
    else:
        assert match in str(read_exposure(path).extra["no_photo_calib"])
    assert float(read_exposure(path, zeropoint=25.0).photo_calib.zeropoint()) == pytest.approx(25.0)


def test_quantities_of_older_versions(tmp_path) -> None:
    from astropy import units as u

    import kits.space_images as kit

    tree = kit.roman_tree(mosaic=False, tag=TAGS + "wfi_image-1.0.0")["roman"]
    for key, unit in (("data", "DN / s"), ("err", "DN / s"), ("var_poisson", "DN2 / s2")):
        tree[key] = u.Quantity(tree[key].astype(np.float32), u.Unit(unit, parse_strict="silent"), dtype=np.float32)
    area = tree["meta"]["photometry"].pop("pixel_area")
    tree["meta"]["photometry"] = {
        "conversion_megajanskys": 0.7 * u.MJy / u.sr,
        "pixelarea_steradians": area * u.sr,
    }
    path = tmp_path / "old_cal.asdf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile({"roman": tree}).write_to(path)
    exposure = read_exposure(path)
    assert exposure.planes["image"].attrs["units"] == "adu/s"
    assert float(exposure.photo_calib.zeropoint()) == pytest.approx(25.652417, abs=1e-5)


def test_mosaics_of_older_versions(tmp_path) -> None:
    import kits.space_images as kit

    tree = kit.roman_tree(mosaic=True, tag=TAGS + "wfi_mosaic-1.0.0")
    meta = tree["roman"]["meta"]
    for key in ("coadd_info", "instrument", "model_type"):
        del meta[key]
    meta["basic"] = {
        "time_mean_mjd": 61406.5, "max_exposure_time": 642.0, "optical_element": "F106", "instrument": "WFI",
    }  # fmt: skip
    meta["photometry"] = {"pixel_area": 1.05 * (0.11 / 206264.806247) ** 2}
    path = tmp_path / "old_i2d.asdf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile(tree).write_to(path)
    exposure = read_exposure(path)
    assert exposure.data_id.as_dict() == {"instrument": "WFI", "band": "F106", "name": "old_i2d"}
    assert exposure.visit_info.mjd == pytest.approx(61406.5 + 37 / 86400) and exposure.visit_info.exposure_time == 642.0
    # The area that the file states, although its WCS has another within some per cent.
    assert exposure.photo_calib.njy_per_unit == pytest.approx(1e15 * meta["photometry"]["pixel_area"])


def test_electrons_of_older_versions_have_their_gain(tmp_path) -> None:
    from astropy import units as u

    import kits.space_images as kit

    tree = kit.roman_tree(mosaic=False, tag=TAGS + "wfi_image-1.0.0")["roman"]
    tree["data"] = u.Quantity(tree["data"], u.electron / u.s, dtype=np.float32)
    path = tmp_path / "old_cal.asdf"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asdf.AsdfFile({"roman": tree}).write_to(path)
    exposure = read_exposure(path)
    assert exposure.planes["image"].attrs["units"] == "electron/s" and exposure.gain == 107.0


@pytest.mark.parametrize(
    ("tag", "match"),
    [
        ("wfi_science_raw-1.3.0", "this is wfi_science_raw of Roman"),
        ("segmentation_map-2.0.0", "this is segmentation_map of Roman"),
        ("wfi_image-3.0.0", r"version 3.0.0 of its schema, and the newest known is 2.2.0"),
    ],
)
def test_other_products_and_newer_schemas_are_refused(tmp_path, tag, match) -> None:
    path = write_roman(tmp_path / "a.asdf", mosaic=False, tag=TAGS + tag)
    for read in (read_exposure, read_footprint):
        with pytest.raises(FormatError, match=match):
            read(path)


def test_a_newer_schema_is_read_when_asked_or_minor(tmp_path) -> None:
    path = write_roman(tmp_path / "a.asdf", mosaic=False, tag=TAGS + "wfi_image-3.0.0")
    assert "3.0.0" in read_exposure(path, newer=True).extra["caution"]
    path = write_roman(tmp_path / "b.asdf", mosaic=False, tag=TAGS + "wfi_image-2.9.0")
    assert "2.9.0" in read_exposure(path).extra["caution"]


def edited(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
    return path


def test_a_newer_standard_is_refused_with_both_versions(tmp_path) -> None:
    path = write_roman(tmp_path / "a.asdf", mosaic=False)
    edited(path, b"#ASDF_STANDARD 1.6.0", b"#ASDF_STANDARD 9.9.0")
    with pytest.raises(FormatError, match=r"version 9.9.0 of the ASDF Standard; the installed asdf knows"):
        read_exposure(path)
    path = write_roman(tmp_path / "b.asdf", mosaic=False)
    with pytest.raises(FormatError, match=r"version 2\.0\.0 of the ASDF file layout"):
        read_exposure(edited(path, b"#ASDF 1.0.0", b"#ASDF 2.0.0"))


def test_a_wcs_of_newer_software_is_refused_by_its_tag(tmp_path) -> None:
    path = write_roman(tmp_path / "a.asdf", mosaic=False)
    with path.open("rb") as stream:
        tag = next(line for line in stream if b"gwcs/wcs-" in line).split(b"wcs-")[1][:5]
    edited(path, b"gwcs/wcs-" + tag, b"gwcs/wcs-9.9.9")
    with pytest.raises(WcsError, match=r"wcs-9\.9\.9"):
        read_exposure(path)


def test_damage_is_found(tmp_path) -> None:
    path = write_roman(tmp_path / "a.asdf", mosaic=False)
    content = bytearray(path.read_bytes())
    with map_asdf(path) as file:
        middle = file.spans[0].data_start + 1000
    content[middle] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="checksum"):
        read_exposure(path)
    path.write_bytes(content[:middle])
    with pytest.raises(CorruptFileError, match="should end at byte"):
        read_exposure(path)
    path.write_bytes(content[: content.index(b"roman:") + 300])
    with pytest.raises(CorruptFileError, match="YAML tree"):
        read_exposure(path)


def test_other_asdf_files_are_named(tmp_path) -> None:
    asdf.AsdfFile({"data": np.arange(10)}).write_to(tmp_path / "a.asdf")
    with pytest.raises(UnknownFormatError, match="an ASDF file of an unknown kind"):
        read_exposure(tmp_path / "a.asdf")
    with pytest.raises(FormatError, match=r"none of Roman.*it has .*data"):
        read_exposure(tmp_path / "a.asdf", format="roman")


def test_without_the_extra(tmp_path, monkeypatch) -> None:
    path = write_roman(tmp_path / "a.asdf", mosaic=False)
    monkeypatch.setattr(gwcs_module.importlib.util, "find_spec", lambda name: None)
    for read in (read_exposure, read_footprint):
        with pytest.raises(ConfigError, match=r"pip install 'skygraft\[asdf\]'") as caught:
            read(path)
        assert caught.value.path == str(path)


def test_size_is_as_expected(tmp_path) -> None:
    assert read_footprint(write_roman(tmp_path / "a.asdf", mosaic=False)).shape == (SIZE, SIZE)
