"""Every dialect against GalSim, astropy or a closed form, and how dialects are told apart."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table

from skygraft.catalog import Flag, bands_of, has_flag, normalize_catalog, read_catalog
from skygraft.catalog.dialects import DIALECTS, choose_dialect
from skygraft.errors import CatalogError, DialectError


def ellipse_of(profile, east_sign):
    """Half-light radius sqrt(ab), axis ratio and position angle of a transformed GalSim profile.

    `east_sign` is +1 where the profile's x axis is East, -1 where it is West; y is North.
    """
    base, matrix = (
        (profile.original, profile.jac) if isinstance(profile, galsim.Transformation) else (profile, np.eye(2))
    )
    axes, sizes, _ = np.linalg.svd(matrix)
    angle = np.degrees(np.arctan2(east_sign * axes[0, 0], axes[1, 0])) % 180.0
    return base.half_light_radius * np.sqrt(sizes[0] * sizes[1]), sizes[1] / sizes[0], angle


def assert_same_ellipse(got, profile, east_sign):
    radius, q, pa = ellipse_of(profile, east_sign)
    assert got[0] == pytest.approx(radius, rel=1e-6)
    assert got[1] == pytest.approx(q, rel=1e-6)
    assert (got[2] - pa + 90.0) % 180.0 - 90.0 == pytest.approx(0.0, abs=1e-4)


def lsst(size=3, **changes):
    rows = {
        "injection_id": np.arange(size),
        "ra": np.linspace(150, 151, size),
        "dec": np.linspace(2, 3, size),
        "source_type": np.full(size, "Star"),
        "mag": np.full(size, 20.0),
    }
    return Table(rows | changes)


def test_lsst_beta_is_from_east_to_north():
    rng = np.random.default_rng(3)
    q, beta, radius = rng.uniform(0.2, 0.9, 20), rng.uniform(-90, 400, 20), rng.uniform(0.2, 2, 20)
    t = normalize_catalog(
        lsst(20, source_type=np.full(20, "Sersic"), n=np.full(20, 1.5), half_light_radius=radius, q=q, beta=beta),
        band="r",
    )
    for i in range(20):
        # source_injection shears the profile in its tangent plane, x East and y North.
        profile = galsim.Sersic(1.5, half_light_radius=radius[i]).shear(q=q[i], beta=beta[i] * galsim.degrees)
        assert_same_ellipse((t["half_light_radius"].value[i], t["q"][i], t["pa"].value[i]), profile, +1)


def test_lsst_real_catalogue(data_dir):
    path = data_dir / "cfht_849375" / "truth_849375_si_catalog.ecsv"
    t = read_catalog(path, band="r")
    kinds, counts = np.unique(t["source_type"], return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {"Sersic": 60, "Star": 60, "Trail": 10}
    assert (t["flags"] == 0).all()
    assert t.colnames[:5] == ["injection_id", "ra", "dec", "source_type", "mag_r"]
    assert t["ra"].unit == u.deg
    # Row 119, as it is written in the file.
    assert t["mag_r"].value[119] == 20.508113216479344
    assert t["pa"].value[119] == pytest.approx(90.0 - 61.268660132234096, rel=1e-14)
    trail = t[120]
    assert trail["trail_length_pix"] == 48.69818585714069 * u.pix
    assert trail["trail_angle_pix"] == 8.976192860703819 * u.deg
    assert trail["mag_per_pixel"]
    assert np.isnan(trail["pa"]) and np.isnan(trail["half_light_radius"])
    assert t["mag_per_pixel"].sum() == 10
    assert not {"beta", "mag", "trail_length"} & set(t.colnames)


def test_lsst_reference_catalogues_of_afw(data_dir):
    paths = sorted((data_dir / "afw_reference").glob("*_catalog.ecsv"))
    assert paths
    for path in paths:
        t = read_catalog(path, band="i")
        assert len(t) == 50
        assert set(t["source_type"]) == {"Star", "Sersic", "Trail"}
        assert (t["flags"] == 0).all()


def test_lsst_needs_a_band_and_says_so():
    with pytest.raises(CatalogError, match=r"which band it is of.*band='r'"):
        normalize_catalog(lsst())


def test_lsst_galsim_class_names():
    t = normalize_catalog(
        lsst(
            5,
            source_type=np.array(["DeltaFunction", "Exponential", "DeVaucouleurs", "Gaussian", "Gaussian"]),
            half_light_radius=np.array([np.nan, 0.5, 0.6, np.nan, np.nan]),
            sigma=np.array([np.nan, np.nan, np.nan, 0.3, np.nan]),
            fwhm=np.array([np.nan, np.nan, np.nan, np.nan, 0.8]),
        ),
        band="r",
    )
    assert t["source_type"].tolist() == ["Star", "Sersic", "Sersic", "Gaussian", "Gaussian"]
    assert t["n"][1:3].tolist() == [1.0, 4.0]
    radius = t["half_light_radius"].value
    assert radius[3] == pytest.approx(galsim.Gaussian(sigma=0.3).half_light_radius, rel=1e-6)
    assert radius[4] == pytest.approx(galsim.Gaussian(fwhm=0.8).half_light_radius, rel=1e-6)
    assert t["q"][1] == 1.0 and t["pa"].value[1] == 90.0 - 90.0  # missing means round


def test_lsst_extra_columns_are_carried_along():
    t = normalize_catalog(lsst(redshift=np.array([0.1, 0.2, 0.3]), vectors=np.zeros((3, 2))), band="r")
    assert t["redshift"].tolist() == [0.1, 0.2, 0.3]
    assert "vectors" not in t.colnames


def test_native_units_are_converted():
    raw = Table(
        {
            "ra": [1.0, 23.9] * u.hourangle,
            "dec": [0.5, -0.5] * u.rad,
            "source_type": ["Sersic", "Star"],
            "mag_r": [20.0, 21.0] * u.ABmag,
            "n": [1.0, np.nan],
            "half_light_radius": [0.01, np.nan] * u.arcmin,
            "pm_dec": [1.0, 0.0] * u.arcsec / u.yr,
            "epoch_mjd": [59000.0, 59000.0],
        }
    )
    t = normalize_catalog(raw)
    np.testing.assert_allclose(t["ra"].to_value("deg"), [15.0, 358.5], rtol=1e-14)
    np.testing.assert_allclose(t["dec"].to_value("deg"), np.degrees([0.5, -0.5]), rtol=1e-14)
    assert t["half_light_radius"].value[0] == pytest.approx(0.6)
    assert t["pm_dec"].unit == u.mas / u.yr and t["pm_dec"].value[0] == pytest.approx(1000.0)
    assert t["injection_id"].tolist() == [0, 1]
    raw["half_light_radius"].unit = u.s
    with pytest.raises(CatalogError, match="cannot be converted to arcsec"):
        normalize_catalog(raw)


def test_insertfakes_new_names_against_galsim():
    rng = np.random.default_rng(4)
    n = 6
    cols = {
        "ra": rng.uniform(0, 2 * np.pi, n),
        "dec": rng.uniform(-1, 1, n),
        "sourceType": np.array(["galaxy"] * 5 + ["star"]),
        "g_mag": rng.uniform(18, 25, n),
        "r_mag": rng.uniform(18, 25, n),
        "bulge_disk_flux_ratio": rng.uniform(0, 3, n),
    }
    for part, index in (("bulge", 4.0), ("disk", 1.0)):
        cols |= {
            f"{part}_semimajor": rng.uniform(0.2, 2, n),
            f"{part}_axis_ratio": rng.uniform(0.2, 0.95, n),
            f"{part}_pa": rng.uniform(0, 180, n),
            f"{part}_n": np.full(n, index),
        }
    t = normalize_catalog(Table(cols))
    np.testing.assert_allclose(t["ra"].value, np.degrees(cols["ra"]))
    assert t["source_type"].tolist() == ["BulgeDisk"] * 5 + ["Star"]
    assert t["mag_g"].value.tolist() == cols["g_mag"].tolist()
    for i in range(5):
        for part in ("bulge", "disk"):
            a, q, pa = (cols[f"{part}_{c}"][i] for c in ("semimajor", "axis_ratio", "pa"))
            # insertFakes: x East, y North, half-light radius a sqrt(q), beta = 90 - pa.
            profile = galsim.Sersic(cols[f"{part}_n"][i], half_light_radius=a * np.sqrt(q))
            profile = profile.shear(q=q, beta=(90 - pa) * galsim.degrees)
            got = (t[f"{part}_half_light_radius"].value[i], t[f"{part}_q"][i], t[f"{part}_pa"].value[i])
            assert_same_ellipse(got, profile, +1)
        ratio = cols["bulge_disk_flux_ratio"][i]
        assert t["bulge_fraction"][i] == pytest.approx((ratio * 1.0) / (ratio * 1.0 + 1.0))


def test_insertfakes_positions_are_radians_whatever_their_values():
    # 150 "radians" is not on the sphere: it is refused, never read as degrees.
    raw = Table({"ra": [150.0], "dec": [0.1], "sourceType": ["star"], "r_mag": [20.0]})
    with pytest.raises(CatalogError, match="ra = 8594"):
        normalize_catalog(raw)
    with pytest.raises(CatalogError, match=r"150 taken as radians.*dialect has positions in radians: convert degrees"):
        normalize_catalog(raw)
    raw = Table({"ra": [1.5, 6.0], "dec": [0.1, 2.2], "sourceType": ["star"] * 2, "r_mag": [20.0] * 2})
    with pytest.raises(CatalogError, match=r"row 1 .*dec = 126\.05.* 2\.2 taken as radians"):
        normalize_catalog(raw)
    raw = Table({"ra": [1.5] * u.deg, "dec": [0.1] * u.deg, "sourceType": ["star"], "r_mag": [20.0]})
    with pytest.raises(CatalogError, match="says that it is in deg, but this dialect has it in rad"):
        normalize_catalog(raw)


def test_insertfakes_per_band_bulges_and_trails():
    raw = Table(
        {
            "ra": [0.1, 0.2],
            "dec": [0.1, 0.2],
            "sourceType": ["galaxy", "trail"],
            "g_mag": [20.0, 21.0],
            "r_mag": [19.0, 20.0],
            "g_bulge_flux_fraction": [0.2, np.nan],
            "r_bulge_flux_fraction": [0.6, np.nan],
            "trail_length": [np.nan, 40.0],
            "trail_angle": [np.nan, np.pi / 6],
        }
    )
    for part in ("bulge", "disk"):
        for name, value in (("semimajor", 1.0), ("axis_ratio", 0.25), ("pa", 10.0), ("n", 1.0)):
            raw[f"{part}_{name}"] = [value, np.nan]
    with pytest.raises(CatalogError, match="no band is asked for"):
        normalize_catalog(raw)
    t = normalize_catalog(raw, band="r")
    assert t["bulge_fraction"][0] == 0.6
    assert t["disk_half_light_radius"].value[0] == 0.5
    assert t["trail_length_pix"].value[1] == 40.0
    assert t["trail_angle_pix"].value[1] == pytest.approx(30.0)
    assert t["mag_per_pixel"].tolist() == [False, True]
    with pytest.raises(CatalogError, match="no band 'z'; it has g, r"):
        normalize_catalog(raw, band="z")


def test_insertfakes_old_names():
    raw = Table(
        {
            "raJ2000": [1.0, 2.0],
            "decJ2000": [0.5, -0.5],
            "umagVar": [22.0, 23.0],
            "rmagVar": [20.0, 21.0],
            "sourceType": [b"galaxy", b"star"],
            "a_d": [2.0, 0.0],
            "b_d": [1.0, 0.0],
            "pa_disk": [30.0, 0.0],
            "a_b": [1.0, 0.0],
            "b_b": [0.81, 0.0],
            "pa_bulge": [60.0, 0.0],
            "DiskHalfLightRadius": [1.3, 0.0],
            "disk_n": [1.0, 0.0],
            "bulge_n": [4.0, 0.0],
        }
    )
    t = normalize_catalog(raw)
    assert t["source_type"].tolist() == ["BulgeDisk", "Star"]
    np.testing.assert_allclose(t["ra"].value, np.degrees([1.0, 2.0]))
    assert (t["mag_u"].value[0], t["mag_r"].value[1]) == (22.0, 21.0)
    assert t["disk_half_light_radius"].value[0] == 1.3
    assert t["bulge_half_light_radius"].value[0] == pytest.approx(0.9)
    assert (t["disk_q"][0], t["bulge_q"][0], t["bulge_fraction"][0]) == (0.5, 0.81, 0.5)


def test_synpipe_single_and_double():
    single = Table({"ID": [5, 6], "RA": [1.0, 2.0], "DEC": [3.0, 4.0], "mag": [20.0, 21.0]})
    stars = normalize_catalog(single, band="i")
    assert set(stars["source_type"]) == {"Star"}
    for name, value in (("reff", 0.7), ("sersic_n", 2.0), ("b_a", 0.4), ("theta", 25.0)):
        single[name] = [value, value]
    t = normalize_catalog(single, band="i")
    assert t["injection_id"].tolist() == [5, 6]
    # SynPipe: sheared along x (East), then turned by 90 - theta.
    profile = galsim.Sersic(2.0, half_light_radius=0.7).shear(q=0.4, beta=0 * galsim.degrees)
    profile = profile.rotate(65.0 * galsim.degrees)
    assert_same_ellipse((t["half_light_radius"].value[0], t["q"][0], t["pa"].value[0]), profile, +1)
    double = Table({"ID": [5], "RA": [1.0], "DEC": [3.0], "mag": [20.0], "b2t": [0.3]})
    for number in (1, 2):
        for name, value in (("reff", 0.5 * number), ("sersic_n", 5.0 - number), ("b_a", 0.5), ("theta", 10.0)):
            double[f"{name}{number}"] = [value]
    t = normalize_catalog(double, band="i")
    assert t["bulge_fraction"][0] == 0.3
    assert (t["bulge_n"][0], t["disk_n"][0]) == (4.0, 3.0)
    assert (t["bulge_half_light_radius"].value[0], t["disk_half_light_radius"].value[0]) == (0.5, 1.0)
    with pytest.raises(CatalogError, match="which band"):
        normalize_catalog(double)


def test_obiwan_nanomaggies_and_ellipticities():
    rng = np.random.default_rng(6)
    q, pa = rng.uniform(0.2, 0.9, 8), rng.uniform(0, 180, 8)
    e = (1 - q) / (1 + q)
    flux = np.array([1.0, 100.0, 0.5, 2.0, -1.0, 0.0, 7.0, 3631e-9 * 2])
    raw = Table(
        {
            "id": np.arange(8) + 10,
            "ra": np.full(8, 10.0),
            "dec": np.full(8, 0.0),
            "flux_g": flux,
            "flux_z": np.full(8, 1.0),
            "sersic": np.full(8, 1.0),
            "shape_r": np.array([0.0] + [0.9] * 7),
            "shape_e1": e * np.cos(2 * np.radians(pa)),
            "shape_e2": e * np.sin(2 * np.radians(pa)),
        }
    )
    t = normalize_catalog(raw)
    assert t["source_type"].tolist() == ["Star"] + ["Sersic"] * 7
    # A nanomaggie is 3.631 uJy (to the precision of the AB zeropoint).
    lit = flux > 0
    want = (flux[lit] * 3631e-9 * u.Jy).to_value(u.ABmag)
    np.testing.assert_allclose(t["mag_g"].value[lit], want, atol=1e-4)
    assert np.isnan(t["mag_g"].value[~lit]).all()
    np.testing.assert_allclose(t["q"][1:], q[1:], rtol=1e-12)
    np.testing.assert_allclose(t["pa"].value[1:], pa[1:], rtol=1e-9)
    # shape_r is the major axis: a = sqrt(ab / q).
    np.testing.assert_allclose(t["half_light_radius"].value[1:] / np.sqrt(q[1:]), 0.9, rtol=1e-12)


def test_skycatalogs_galaxies_against_galsim(data_dir):
    path = data_dir / "catalogues" / "skycatalogs" / "galaxy_9556.parquet"
    t = read_catalog(path)
    import pyarrow.parquet as pq

    raw = pq.read_table(path).to_pylist()
    assert t["injection_id"].tolist() == [row["galaxy_id"] for row in raw]
    for i in range(0, 500, 29):
        row = raw[i]
        g1, g2 = row["shear_1"] / (1 - row["convergence"]), row["shear_2"] / (1 - row["convergence"])
        mu = 1.0 / ((1 - row["convergence"]) ** 2 - row["shear_1"] ** 2 - row["shear_2"] ** 2)
        for part in ("bulge", "disk"):
            a, b = row[f"size_{part}_true"], row[f"size_minor_{part}_true"]
            # skyCatalogs' own construction; GalSim's sky frame has x West.
            profile = galsim.Sersic(row[f"sersic_{part}"], half_light_radius=np.sqrt(a * b))
            profile = profile.shear(q=b / a, beta=(90 + row["position_angle_unlensed"]) * galsim.degrees)
            profile = profile.lens(g1, g2, mu)
            got = (t[f"{part}_half_light_radius"].value[i], t[f"{part}_q"][i], t[f"{part}_pa"].value[i])
            assert_same_ellipse(got, profile, -1)
        fluxes = [10 ** (-0.4 * row[f"{p}_magnorm"]) for p in ("bulge", "disk", "knots")]
        assert t["bulge_fraction"][i] == pytest.approx(fluxes[0] / sum(fluxes))
        assert 10 ** (-0.4 * t["mag_magnorm"].value[i]) == pytest.approx(sum(fluxes) * mu)
    with pytest.raises(CatalogError, match="no magnitudes in band 'r', only magnorm"):
        read_catalog(path, band="r")


def test_skycatalogs_point_sources(data_dir):
    t = read_catalog(data_dir / "catalogues" / "skycatalogs" / "pointsource_9556.parquet", band="magnorm")
    assert set(t["source_type"]) == {"Star"}
    assert len(t) == 498
    assert t["mag_magnorm"].value[0] == pytest.approx(29.371089336766683)


def test_skycatalogs_diffsky_ellipticities_are_in_galsims_frame():
    e1, e2 = 0.2, -0.1
    raw = Table({"galaxy_id": [1], "ra": [10.0], "dec": [1.0], "mag_r": [21.0], "bulge_fraction": [0.3]})
    for word in ("spheroid", "disk"):
        raw[f"{word}HalfLightRadiusArcsec"] = [0.7]
        raw[f"{word}Ellipticity1"], raw[f"{word}Ellipticity2"] = [e1], [e2]
    t = normalize_catalog(raw, band="r")
    profile = galsim.Exponential(half_light_radius=0.7).shear(galsim.Shear(g1=e1, g2=e2))
    assert_same_ellipse((t["disk_half_light_radius"].value[0], t["disk_q"][0], t["disk_pa"].value[0]), profile, -1)


def test_romanisim_maggies():
    raw = Table(
        {
            "ra": [269.9, 269.8],
            "dec": [66.0, 66.1],
            "type": ["SER", "PSF"],
            "n": [1.6, -1.0],
            "half_light_radius": [0.6, 0.0],
            "pa": [165.6, 0.0],
            "ba": [0.9, 1.0],
            "F087": [1.8e-9, 3.0e-10],
            "F158": [2.0e-9, 0.0],
        }
    )
    t = normalize_catalog(raw, band="F158")
    assert t["source_type"].tolist() == ["Sersic", "Star"]
    np.testing.assert_allclose(t["mag_F087"].value, -2.5 * np.log10([1.8e-9, 3.0e-10]))
    assert np.isnan(t["mag_F158"].value[1])
    # romanisim: beta = pa + 90 degrees in GalSim's sky frame, x West.
    profile = galsim.Sersic(1.6, half_light_radius=0.6).shear(q=0.9, beta=255.6 * galsim.degrees)
    assert_same_ellipse((t["half_light_radius"].value[0], t["q"][0], t["pa"].value[0]), profile, -1)


def test_catsim_sample(data_dir):
    path = data_dir / "catalogues" / "btk" / "sample_input_catalog.fits"
    raw = Table.read(path)
    t = read_catalog(path, band="r")
    assert t["injection_id"].tolist() == raw["galtileid"].tolist()
    np.testing.assert_array_equal(t["mag_r"].value, np.asarray(raw["r_ab"]))
    lit = np.asarray(raw["a_d"]) > 0
    np.testing.assert_allclose(t["disk_half_light_radius"].value[lit] ** 2, (raw["a_d"] * raw["b_d"])[lit])
    pure = np.asarray(raw["fluxnorm_bulge"]) == 0
    assert (t["bulge_fraction"][pure] == 0).all() and pure.any()


def test_no_dialect_and_two_dialects():
    with pytest.raises(DialectError) as caught:
        normalize_catalog(Table({"ra": [1.0], "dec": [2.0], "r": [20.0]}))
    text = str(caught.value)
    for dialect in DIALECTS.values():
        assert f"{dialect.name}: {dialect.looks_for}" in text
    assert "The columns are: dec, r, ra" in text
    both = lsst(sourceType=np.full(3, "star"), r_mag=np.full(3, 20.0))
    with pytest.raises(DialectError, match=r"match 2 dialects: lsst .*; insertfakes"):
        normalize_catalog(both, band="r")
    assert len(normalize_catalog(both, "lsst", "r")) == 3
    with pytest.raises(DialectError, match=r"there is no dialect 'lst'.*Did you mean 'lsst'"):
        normalize_catalog(lsst(), "lst")


def test_a_canonical_table_is_native_and_comes_back_the_same(data_dir):
    path = data_dir / "cfht_849375" / "truth_849375_si_catalog.ecsv"
    once = read_catalog(path, band="r")
    twice = normalize_catalog(once)
    assert twice.colnames == once.colnames
    for name in once.colnames:
        np.testing.assert_array_equal(np.asarray(twice[name]), np.asarray(once[name]))
    assert choose_dialect(frozenset(once.colnames)).name == "native"


def test_masked_magnitudes_are_not_in_the_band():
    raw = lsst()
    raw["mag"] = MaskedColumn([20.0, 1e20, 21.0], mask=[False, True, False])
    t = normalize_catalog(raw, band="r")
    assert np.isnan(t["mag_r"].value).tolist() == [False, True, False]
    assert not has_flag(t["flags"], Flag.MAG_BAD).any()


def test_ids_must_be_whole_and_present():
    with pytest.raises(CatalogError, match=r"injection_id = 0\.5 is not a whole number"):
        normalize_catalog(lsst(injection_id=np.array([0.0, 0.5, 1.0])), band="r")
    with pytest.raises(CatalogError, match="missing or negative"):
        normalize_catalog(lsst(injection_id=MaskedColumn([0, 1, 2], mask=[0, 1, 0])), band="r")
    assert normalize_catalog(lsst(injection_id=np.array([4.0, 5.0, 6.0])), band="r")["injection_id"].dtype == np.int64


def test_magnitude_errors_are_not_bands():
    raw = Table({"ra": [1.0], "dec": [2.0], "source_type": ["Star"], "mag_r": [20.0]})
    for name in ("mag_err_r", "mag_r_err", "mag_error", "mag_r_sigma"):
        raw[name] = [np.inf]
    t = normalize_catalog(raw)
    assert bands_of(t) == ["r"]
    assert "mag_r_err" in t.colnames  # carried along as it is


def test_obiwan_real_randoms(data_dir):
    t = read_catalog(data_dir / "decam_grz" / "randoms_elg.fits")
    assert t["injection_id"].tolist() == [1, 2, 3, 4]
    assert t["n"].tolist() == [1.0, 1.0, 4.0, 4.0]
    assert t["mag_r"].value[0] == pytest.approx(18.6774, abs=1e-4)
    # e1, e2 = 0.12408947, 0.26107663 and a semi-major axis of 2 arcsec, as the file has them.
    e = np.hypot(0.12408947, 0.26107663)
    np.testing.assert_allclose(t["q"], (1 - e) / (1 + e), rtol=1e-6)
    np.testing.assert_allclose(t["half_light_radius"].value, 2 * np.sqrt((1 - e) / (1 + e)), rtol=1e-6)
    np.testing.assert_allclose(t["pa"].value, np.degrees(np.arctan2(0.26107663, 0.12408947)) / 2, rtol=1e-6)


def test_a_table_of_hundreds_of_columns_is_not_listed_whole():
    with pytest.raises(DialectError, match="c039 and 260 more"):
        normalize_catalog(Table({f"c{i:03d}": [1.0] for i in range(300)}))


def test_cosmos_tables_are_told_what_reads_them(data_dir):
    folders = [data_dir / "catalogues" / name for name in ("galsim_cosmos", "btk")]
    paths = [path for folder in folders for path in folder.glob("real_galaxy_catalog_*.fits")]
    assert len(paths) >= 5
    for path in paths:
        with pytest.raises(DialectError, match=r"GalSim COSMOS catalogue.*cosmos_shapes\(path\).*random_catalog\("):
            read_catalog(path)
