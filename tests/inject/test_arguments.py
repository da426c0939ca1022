"""What `inject` takes and refuses, how images are named, what leaves fakes out of a mask, and how results show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.table import QTable, Table

import skygraft
from kits.plain_images import write_plain_image
from skygraft import inject
from skygraft.catalog import Flag
from skygraft.errors import CatalogError, ConfigError
from skygraft.exposure import DataId, Exposure
from skygraft.injection import InjectionOptions
from skygraft.photometry import ChebyshevField, PhotoCalib
from skygraft.testing import assert_exposures_equal, make_exposure


@pytest.fixture(scope="module")
def exposure() -> Exposure:
    return make_exposure((60, 70), noise=True)


def columns(n: int = 3) -> dict[str, Any]:
    return {
        "injection_id": np.arange(n) + 2**53 + 1,
        "ra": 150.0 + np.arange(n) / 3600,
        "dec": np.full(n, 2.0),
        "source_type": ["Star"] * n,
        "mag_r": np.linspace(18.0, 20.0, n),
    }


CATALOG = QTable(columns())


def pandas_frame(**changes: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns() | changes)


OTHER_TABLES: dict[str, Callable[[], Any]] = {
    "pandas": pandas_frame,
    "pandas with an index": lambda: pandas_frame().set_index("injection_id"),
    "pandas, rows chosen": lambda: pandas_frame().iloc[::-1],
    "pandas, its own types": lambda: pandas_frame().convert_dtypes(),
    "arrow": lambda: pa.table(columns()),
    "arrow batch": lambda: pa.RecordBatch.from_pydict(columns()),
    "dict": columns,
    "structured": lambda: np.rec.fromarrays(list(columns().values()), names=list(columns())),
    "table": lambda: Table(columns()),
}


@pytest.mark.parametrize("kind", OTHER_TABLES)
def test_tables_of_other_libraries_are_taken_as_they_are(exposure: Exposure, kind: str) -> None:
    expected = inject(exposure, CATALOG)
    found = inject(exposure, OTHER_TABLES[kind]())
    np.testing.assert_array_equal(found.truth["injection_id"], expected.truth["injection_id"])
    np.testing.assert_array_equal(found.exposure.image, expected.exposure.image)


def test_polars_is_taken_too(exposure: Exposure) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(columns())
    np.testing.assert_array_equal(inject(exposure, frame).exposure.image, inject(exposure, CATALOG).exposure.image)
    with pytest.raises(CatalogError, match="collect"):
        inject(exposure, frame.lazy())


@pytest.mark.parametrize(
    ("catalog", "match"),
    [
        ("fakes.fits", "read_catalog"),
        (5, "builtins.int"),
        (None, "NoneType"),
        (np.zeros((3, 2)), "numpy.ndarray"),
        ([], "builtins.list"),
        ({"ra": [1.0], "dec": [1.0, 2.0]}, "length"),
    ],
)
def test_what_is_no_table_is_refused_by_name(exposure: Exposure, catalog: Any, match: str) -> None:
    with pytest.raises(CatalogError, match=match):
        inject(exposure, catalog)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gain": "2"}, "gain is '2'; a positive number"),
        ({"gain": True}, "gain is True"),
        ({"gain": 2 + 0j}, "gain is"),
        ({"gain": np.ones((60, 70))}, r"shape \(60, 70\).*replace\(gain="),
        ({"gain": [2.0]}, r"shape \(1,\)"),
        ({"gain": np.nan}, "gain is nan"),
        ({"noise": "no"}, "noise is 'no'; True or False"),
        ({"noise": 1}, "noise is 1"),
        ({"noise": None}, "noise is None"),
        ({"mark_injected": "yes"}, "mark_injected is 'yes'"),
        ({"seed": 1.0}, "seed is 1.0; a whole number"),
        ({"seed": "1"}, "seed is '1'"),
        ({"seed": True}, "seed is True"),
        ({"seed": np.array([1, 2])}, "seed is array"),
        ({"flux_tolerance": "1e-3"}, "flux_tolerance is '1e-3'"),
        ({"flux_tolerance": None}, "flux_tolerance is None"),
        ({"flux_tolerance": np.array([1e-3])}, "flux_tolerance is array"),
        ({"mask_threshold": True}, "mask_threshold is True"),
        ({"mask_threshold": np.inf}, "mask_threshold is inf"),
        ({"flux_mode": ["total"]}, r"\['total'\] is not one of"),
        ({"flux_mode": "aperture", "aperture": 12}, "no unit"),
        ({"options": {"seed": 1}}, "options is a dict"),
        ({"image_id": 5}, "image_id is 5"),
        ({"band": 5}, "band is 5"),
        ({"progress": 3}, "progress is 3"),
        ({"on_bad": "keep"}, "on_bad is 'keep'"),
    ],
)
def test_options_of_another_type_or_shape_are_refused_by_name(
    exposure: Exposure, options: dict[str, Any], match: str
) -> None:
    with pytest.raises((ConfigError, CatalogError), match=match):
        inject(exposure, CATALOG, **options)


def test_numbers_of_numpy_are_numbers(exposure: Exposure) -> None:
    options = {
        "noise": np.bool_(False),
        "seed": np.int64(3),
        "gain": np.float32(2.0),
        "flux_tolerance": np.float64(1e-3),
    }
    made = InjectionOptions.from_kwargs(**options)
    assert made == InjectionOptions(noise=False, seed=3, gain=2.0)
    assert [type(getattr(made, name)) for name in options] == [bool, int, float, float]
    assert inject(exposure, CATALOG, **options).summary["noise"] is False


@pytest.mark.parametrize("gain", [np.ones((60, 71)), np.ones((1, 70)), np.ones(70), [2.0], "2", True])
def test_a_gain_that_is_not_the_images_is_refused(exposure: Exposure, gain: Any) -> None:
    with pytest.raises(ConfigError, match="gain"):
        inject(exposure.replace(gain=gain), CATALOG)
    assert inject(exposure.replace(gain=gain), CATALOG, gain=2.0).summary["gain"] == 2.0


def test_an_image_is_read_first() -> None:
    with pytest.raises(ConfigError, match=r"exposure is a str.*read_exposure"):
        inject("calexp.fits", CATALOG)


def test_the_advice_to_keep_bad_rows_can_be_followed(exposure: Exposure) -> None:
    bad = QTable(columns() | {"source_type": ["Star", "Quasar", "Star"]})
    with pytest.raises(CatalogError, match="on_bad='flag'"):
        inject(exposure, bad)
    truth = inject(exposure, bad, on_bad="flag").truth
    assert [bool(flags & Flag.TYPE_UNKNOWN) for flags in truth["flags"]] == [False, True, False]
    assert (truth["stamp_size"] > 0).tolist() == [True, False, True]


def noise_of(exposure: Exposure, **options: Any) -> np.ndarray:
    return inject(exposure, CATALOG, **options).exposure.image - inject(exposure, CATALOG, noise=False).exposure.image


def test_two_bands_of_one_visit_and_detector_have_noise_of_their_own(exposure: Exposure) -> None:
    table = QTable(columns() | {"mag_g": columns()["mag_r"]})
    g = exposure.replace(data_id=dataclasses.replace(exposure.data_id, band="g"))
    unknown = exposure.replace(data_id=dataclasses.replace(exposure.data_id, band=None))
    images = [
        inject(one, table, **options)
        for one, options in ((exposure, {}), (g, {}), (unknown, {"band": "r"}), (unknown, {"band": "g"}))
    ]
    assert [one.summary["image_id"] for one in images] == ["TestCam-1-2-r", "TestCam-1-2-g"] * 2
    np.testing.assert_array_equal(images[0].exposure.image, images[2].exposure.image)
    np.testing.assert_array_equal(images[1].exposure.image, images[3].exposure.image)
    assert (images[0].exposure.image != images[1].exposure.image).any()


def test_two_files_of_one_name_have_noise_of_their_own(tmp_path: Any) -> None:
    psf = {"kind": "moffat", "fwhm": "0.8 arcsec"}
    cards = {"EXPNUM": None, "CCDNUM": None}
    images = {}
    for folder, seed in (("a", 1), ("b", 2), ("moved", 1)):
        path = write_plain_image(tmp_path / folder / "image.fits", 150.0, 2.0, 60, seed=seed, **cards)
        images[folder] = skygraft.read_exposure(path, psf=psf)
    assert len({str(image.data_id) for image in images.values()}) == 1
    found = {name: inject(image, CATALOG) for name, image in images.items()}
    ids = {name: one.summary["image_id"] for name, one in found.items()}
    assert ids["a"] != ids["b"]
    # Wherever it lies, the same file is the same image.
    assert ids["a"] == ids["moved"]
    np.testing.assert_array_equal(found["a"].exposure.image, found["moved"].exposure.image)
    noise = [noise_of(images[name]) for name in "ab"]
    assert not np.allclose(*noise, atol=1.0)


def test_what_is_given_as_name_decides(exposure: Exposure) -> None:
    other = exposure.replace(data_id=DataId(name="other"))
    first, second = (inject(one, CATALOG, image_id="mine") for one in (exposure, other))
    np.testing.assert_array_equal(first.exposure.image, second.exposure.image)
    coadd = exposure.replace(data_id=DataId("cam", tract=3, patch=4, band="i"))
    assert coadd.default_image_id() == "cam-3-4-i"
    assert coadd.default_image_id("r") == "cam-3-4-r"


def test_masking_bad_pixels_does_not_mask_the_fakes(exposure: Exposure) -> None:
    planes = exposure.planes.copy(deep=True)
    bad, detected = exposure.mask_planes["BAD"], exposure.mask_planes["DETECTED"]
    planes["mask"].values[5, 6] |= bad
    planes["mask"].values[7, 8] |= detected
    planes["mask"].values[9, 9] |= 1 << 20  # a bit without a name
    found = inject(exposure.replace(planes=planes), CATALOG).exposure
    x, y = (np.rint(v).astype(int) for v in (inject(exposure, CATALOG).truth[name] for name in "xy"))
    assert (found.mask[y, x] != 0).all()
    assert not found.bad()[y, x].any()
    assert np.argwhere(found.bad()).tolist() == [[5, 6], [9, 9]]
    assert found.bad("INJECTED_CORE")[y, x].all()
    assert np.argwhere(found.bad(["BAD", "DETECTED"])).tolist() == [[5, 6], [7, 8]]
    assert not found.bad([]).any()
    with pytest.raises(ConfigError, match="Did you mean 'INJECTED'"):
        found.bad("INJECTD")


def test_the_planes_can_be_left_out(exposure: Exposure) -> None:
    marked, plain = inject(exposure, CATALOG), inject(exposure, CATALOG, mark_injected=False)
    assert set(marked.exposure.mask_planes) - set(plain.exposure.mask_planes) == {"INJECTED", "INJECTED_CORE"}
    assert plain.exposure.mask_planes == exposure.mask_planes
    np.testing.assert_array_equal(plain.exposure.mask, exposure.mask)
    np.testing.assert_array_equal(plain.exposure.image, marked.exposure.image)
    np.testing.assert_array_equal(plain.exposure.variance, marked.exposure.variance)


def test_exposures_and_injections_show_on_one_screen(exposure: Exposure) -> None:
    field = ChebyshevField([[1.0, 0.01]], (0, 69, 0, 59))
    calib = PhotoCalib.from_zeropoint(27.0, field=field, reference=exposure.photo_calib.reference)
    named = exposure.replace(data_id=DataId(name="<b>&", band="r"))
    bare = exposure.replace(psf=None, photo_calib=None, gain=None, extra={"no_psf": ValueError("it was lost")})
    for one in (exposure, exposure.replace(photo_calib=calib), named, bare, inject(exposure, CATALOG)):
        text = repr(one)
        assert len(text.splitlines()) < 24
        assert max(map(len, text.splitlines())) <= 100
        page = one._repr_html_()
        assert page.count("<tr>") == page.count("</tr>") > 4
    text = repr(exposure)
    for part in ("TestCam-1-2", "70 x 60", "0.2000 arcsec/pix", "12 pix = 2.40 arcsec", "27.0000", "BAD", "adu"):
        assert part in text, part
    assert "it was lost" in repr(bare)
    assert "&lt;b&gt;&amp;" in named._repr_html_()
    text = repr(inject(exposure, CATALOG))
    assert "3 drawn of 3" in text
    assert "calibrated to aperture of 12 pix" in text
    assert "27.0000" in exposure.photo_calib._repr_html_()


def test_the_comparison_says_what_of_the_data_ids_differs(exposure: Exposure) -> None:
    other = exposure.replace(data_id=dataclasses.replace(exposure.data_id, band="i", name="x"))
    with pytest.raises(AssertionError, match=r"data ids differ: band is 'i' and 'r', name is 'x' and None"):
        assert_exposures_equal(other, exposure)
