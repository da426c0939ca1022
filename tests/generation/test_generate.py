"""Catalogues from descriptions: the same rows whatever the chunks, real populations, files, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from scipy import stats

from kits.generation_kit import STARS, circle, outline, write_outlines
from skygraft.catalog import read_catalog
from skygraft.errors import CatalogError, ConfigError, CorruptFileError, DialectError, OutputExistsError
from skygraft.generation import CatalogGenerator, generate_catalog, generate_table, load_spec, parse_spec

MAGS = {"kind": "power_law", "low": 18.0, "high": 26.0, "slope": 0.2}
COLOURS = {"r": {"kind": "gaussian", "mean": -0.5, "sigma": 0.2}, "i": -0.8}
SPEC = {
    "area": circle(359.99, 60.0, 0.5),
    "bands": ["g", "r", "i"],
    "n": 3000,
    "seed": 5,
    "sources": [
        {"type": "Star", "fraction": 0.3, "mag": MAGS, "colors": COLOURS},
        {"type": "Sersic", "mag": MAGS, "colors": COLOURS},
        {
            "type": "Moffat",
            "fraction": 0.1,
            "mag": 20.5,
            "columns": {
                "moffat_beta": {"kind": "uniform", "low": 2.0, "high": 4.0},
                "half_light_radius": 0.7,
                "variability": "sine",
                "period": 3.0,
                "amplitude": {"kind": "uniform", "low": 0.1, "high": 0.4},
                "inject_into": {"kind": "choice", "values": ["science", "template"]},
            },
        },
    ],
}


def same(one, two):
    assert one.colnames == two.colnames
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]), err_msg=name)


def test_the_description_is_what_comes_out():
    table = generate_table(SPEC)
    kind = np.asarray(table["source_type"])
    for name, part in (("Star", 0.3), ("Sersic", 0.6), ("Moffat", 0.1)):
        assert np.mean(kind == name) == pytest.approx(part, abs=4 * np.sqrt(part * (1 - part) / 3000))
    drawn = kind != "Moffat"
    mag = table["mag_g"].value
    share = (10 ** (0.2 * (mag[drawn] - 18)) - 1) / (10 ** (0.2 * 8) - 1)
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    colour = (table["mag_r"].value - mag)[drawn]
    assert stats.kstest((colour + 0.5) / 0.2, "norm").pvalue > 1e-3
    np.testing.assert_allclose((table["mag_i"].value - mag)[drawn], -0.8, atol=1e-12)
    moffat = ~drawn
    assert (mag[moffat] == 20.5).all() and (table["mag_i"].value[moffat] == 20.5).all()
    assert set(np.asarray(table["variability"])[moffat]) == {"sine"}
    assert set(np.asarray(table["inject_into"])[moffat]) == {"science", "template"}
    assert set(np.asarray(table["inject_into"])[drawn]) == {""}
    assert np.isnan(np.asarray(table["n"])[kind != "Sersic"]).all()
    assert np.isnan(table["half_light_radius"].value[kind == "Star"]).all()
    radius = table["half_light_radius"].value[kind == "Sersic"]
    pull = np.log(radius / (0.5 * 10 ** (-0.1 * (mag[kind == "Sersic"] - 22)))) / 0.4
    assert stats.kstest(pull, "norm").pvalue > 1e-3
    assert table["injection_id"].tolist() == list(range(3000))
    # Properties do not depend on each other.
    assert abs(stats.spearmanr(table["ra"].value[drawn] % 180, mag[drawn]).statistic) < 0.08
    assert abs(stats.spearmanr(colour, mag[drawn]).statistic) < 0.08


@pytest.mark.parametrize("rows", [1, 7, 1000, 2999, 3000, 1 << 18])
def test_rows_do_not_depend_on_the_chunks(rows):
    whole = generate_table(SPEC, n=rows if rows < 100 else 3000)
    generator = CatalogGenerator(parse_spec(SPEC | {"n": len(whole)}))
    blocks = list(generator.blocks(rows))
    assert [len(block["ra"]) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    for name in ("injection_id", "ra", "dec", "mag_r", "n", "q", "pa", "moffat_beta"):
        joined = np.concatenate([block[name] for block in blocks])
        np.testing.assert_array_equal(joined, np.asarray(whole[name]), err_msg=name)


@pytest.mark.parametrize("kind", ["uniform", "halton"])
def test_the_first_rows_stay_when_more_are_made(kind):
    few, many = (generate_table(SPEC, n=n, positions={"kind": kind}) for n in (500, 5000))
    same(few, many[:500])


def test_a_further_band_or_kind_of_column_changes_nothing_else():
    one = generate_table(SPEC)
    more = generate_table(SPEC, bands=["g", "r", "z", "i"])
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(more[name]), err_msg=name)
    other = generate_table(SPEC, seed=6)
    assert not np.isin(other["ra"].value, one["ra"].value).any()
    zero = generate_table(SPEC, seed=0)
    assert not np.isin(zero["ra"].value, one["ra"].value).any()


def test_files_are_the_same_for_the_same_description_and_read_as_catalogues(tmp_path):
    (tmp_path / "population.yaml").write_text(yaml.safe_dump(SPEC))
    steps = []
    summary = generate_catalog(
        tmp_path / "population.yaml", tmp_path / "a.parquet", progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == ("generating", 3000, 3000)
    assert summary.n == 3000 and sum(summary.types.values()) == 3000 and summary.bands == ("g", "r", "i")
    assert summary.density == pytest.approx(3000 / (np.pi * 30**2), rel=3e-3)
    generate_catalog(SPEC, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    read = read_catalog(tmp_path / "a.parquet")
    made = generate_table(SPEC)
    for name in made.colnames:
        np.testing.assert_array_equal(np.asarray(read[name]), np.asarray(made[name]), err_msg=name)
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.field("injection_id").type == pa.int64() and schema.field("ra").type == pa.float64()
    assert schema.field("half_light_radius").metadata[b"unit"] == b"arcsec"
    stored = json.loads(schema.metadata[b"skygraft-generation"])
    assert stored["seed"] == 5
    # The description in the file makes the same catalogue.
    same(generate_table(stored["spec"]), made)
    with pytest.raises(OutputExistsError, match="overwrite"):
        generate_catalog(SPEC, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="written as Parquet"):
        generate_catalog(SPEC, tmp_path / "a.fits")
    bad = SPEC | {"avoid": {"tables": [{"path": str(tmp_path / "absent.fits"), "radius": 3}]}}
    with pytest.raises(CatalogError, match="no such file"):
        generate_catalog(bad, tmp_path / "c.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "population.yaml"]


def test_many_row_groups_and_bounded_memory(tmp_path, monkeypatch):
    from skygraft.generation import generator

    monkeypatch.setattr(generator, "ROW_GROUP", 512)
    monkeypatch.setattr(CatalogGenerator.tables, "__defaults__", (512,))
    generate_catalog(SPEC, tmp_path / "f.parquet")
    file = pq.ParquetFile(tmp_path / "f.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(6)] == [512] * 5 + [440]
    np.testing.assert_array_equal(file.read()["ra"].to_numpy(), generate_table(SPEC)["ra"].value)


def test_cosmos_galaxies_are_drawn_whole(data_dir):
    path = data_dir / "catalogues/galsim_cosmos/real_galaxy_catalog_23.5_example_fits.fits"
    spec = {"area": circle(10, 0, 0.5), "n": 2000, "bands": ["i", "g"],
            "sources": [{"population": {"path": str(path)}, "colors": {"g": 0.7}}]}  # fmt: skip
    table = generate_table(spec)
    raw = fits.getdata(path, 1)
    fit = np.asarray(raw["sersicfit"], float)
    rows = {tuple(row) for row in np.column_stack([raw["mag_auto"], fit[:, 2], fit[:, 3]]).tolist()}
    drawn = zip(
        table["mag_i"].value.tolist(), np.asarray(table["n"]).tolist(), np.asarray(table["q"]).tolist(), strict=True
    )
    assert set(drawn) <= rows
    assert len(np.unique(table["mag_i"])) > 50
    np.testing.assert_allclose(table["mag_g"].value - table["mag_i"].value, 0.7, atol=1e-12)
    with pytest.raises(ConfigError, match=r"no magnitudes in g, and no colours"):
        generate_table(spec, sources=[{"population": {"path": str(path)}}])


def test_catsim_and_skycatalogs_galaxies(data_dir):
    catsim = data_dir / "catalogues/btk/sample_input_catalog.fits"
    spec = {"area": circle(10, 0, 0.5), "n": 1500, "bands": ["r", "g", "i"], "sources": [
        {"population": {"path": str(catsim)}, "fraction": 0.5}, {"type": "Star", "mag": 20.0},
    ]}  # fmt: skip
    table = generate_table(spec)
    kind = np.asarray(table["source_type"])
    raw = fits.getdata(catsim, 1)
    colours = {
        tuple(np.round(row, 6)) for row in np.column_stack([raw["r_ab"] - raw["g_ab"], raw["r_ab"] - raw["i_ab"]])
    }
    mine = table[kind == "BulgeDisk"]
    r, g, i = (mine[f"mag_{band}"].value for band in "rgi")
    assert {tuple(row) for row in np.round(np.column_stack([r - g, r - i]), 6).tolist()} <= colours
    assert np.isnan(np.asarray(table["bulge_fraction"])[kind == "Star"]).all()
    sky = data_dir / "catalogues/skycatalogs/galaxy_9556.parquet"
    made = generate_table(spec, bands=["r"], sources=[{"population": {"path": str(sky), "bands": {"r": "magnorm"}}}])
    real = read_catalog(sky)
    assert np.isin(made["mag_r"].value, real["mag_magnorm"].value).all()


def test_any_table_by_a_map_of_its_columns(tmp_path, data_dir):
    rng = np.random.default_rng(3)
    n = 400
    own = Table({"M": rng.uniform(20, 25, n), "G": rng.uniform(20, 25, n), "SIZE": rng.uniform(5, 40, n),
                 "SERSIC": rng.uniform(0.5, 4, n), "W": np.where(np.arange(n) < 100, 1.0, 0.0)})  # fmt: skip
    own["SIZE"].unit = "arcsec"
    own["SIZE"] /= 60
    own["SIZE"].unit = "arcmin"
    own["SERSIC"][7] = 9.0
    own["M"][8] = np.nan
    own.write(tmp_path / "own.fits")
    columns = {"mag_r": "M", "mag_g": "G", "half_light_radius": "SIZE", "n": "SERSIC"}
    source = {"type": "Sersic", "population": {"path": str(tmp_path / "own.fits"), "columns": columns, "weight": "W"}}
    spec = {"area": circle(10, 0, 0.5), "n": 800, "bands": ["r", "g"], "sources": [source]}
    generator = CatalogGenerator(parse_spec(spec))
    table = generator.table()
    assert any("302 rows of own.fits cannot be used" in note for note in generator.notes)
    keys = np.round(np.column_stack([table["mag_r"].value, table["half_light_radius"].value]), 6)
    first = np.round(np.column_stack([own["M"], own["SIZE"] * 60])[:100], 6)
    assert {tuple(row) for row in keys.tolist()} <= {tuple(row) for row in first.tolist()}
    assert np.asarray(table["q"]).min() >= 0 and np.asarray(table["q"]).max() <= 1
    source["population"]["columns"] = columns | {"q": "BA", "pa": "THETA"}
    with pytest.raises(CatalogError, match=r"no column BA, THETA; it has M, G, SIZE, SERSIC, W"):
        generate_table(spec)
    source["population"]["columns"] = {"mag_r": "M", "mag_g": "G", "n": "=2.5", "half_light_radius": "SIZE"}
    assert set(generate_table(spec)["n"].tolist()) == {2.5}
    source["population"]["columns"] = {"mag_r": "M", "n": "=long"}
    with pytest.raises(CatalogError, match="'long' for 'n', which is a number"):
        generate_table(spec)
    source["population"]["columns"] = {"magr": "M", "half_light": "SIZE"}
    with pytest.raises(ConfigError, match=r"magr, half_light cannot be drawn.*Did you mean 'mag_r'"):
        generate_table(spec)
    source["population"]["columns"] = {"mag_r": "M", "radius": "SIZE"}
    with pytest.raises(ConfigError, match="radius cannot be drawn"):
        generate_table(spec)
    source["population"] = {"path": str(tmp_path / "own.fits")}
    with pytest.raises(DialectError, match=r"its columns are M, G, SIZE, SERSIC, W.*Name its columns"):
        generate_table(spec)
    source["population"] = {"path": str(tmp_path / "own.fits"), "columns": {"mag_z": "M", "mag_g": "G", "n": "SERSIC"}}
    with pytest.raises(ConfigError, match=r"no magnitudes in r; it has z, g"):
        generate_table(spec)


def bimodal(path, n=4000):
    """Bright red large galaxies, and faint blue small ones."""
    rng = np.random.default_rng(4)
    red = rng.random(n) < 0.5
    mag = np.where(red, 20.0, 24.0) + 0.5 * rng.standard_normal(n)
    own = Table({"mag": mag, "g": mag + np.where(red, 1.2, 0.3) + 0.05 * rng.standard_normal(n)})
    own["hlr"] = np.exp(np.where(red, 0.3, -1.0) - 0.2 * (mag - 22) + 0.1 * rng.standard_normal(n))
    own.write(path)
    return {"path": str(path), "columns": {"mag_r": "mag", "mag_g": "g", "half_light_radius": "hlr"}}


def test_smoothed_rows_keep_mean_and_covariance(tmp_path):
    population = bimodal(tmp_path / "p.fits")
    source = {"type": "Sersic", "population": population | {"smooth": 0.3}}
    spec = {"area": circle(10, 0, 0.5), "n": 20_000, "bands": ["r", "g"], "sources": [source]}
    table = generate_table(spec)
    made = np.stack([table["mag_r"].value, table["mag_g"].value, np.log(table["half_light_radius"].value)])
    own = Table.read(tmp_path / "p.fits")
    real = np.stack([own["mag"], own["g"], np.log(own["hlr"])])
    np.testing.assert_allclose(made.mean(axis=1), real.mean(axis=1), atol=0.06)
    np.testing.assert_allclose(np.cov(made), np.cov(real), rtol=0.05)
    assert len(np.unique(made[0])) == 20_000


def test_with_magnitudes_of_its_own_a_source_keeps_colours_and_sizes_of_its_brightness(tmp_path):
    population = bimodal(tmp_path / "p.fits")
    mags = {"kind": "uniform", "low": 19.0, "high": 26.0}
    source = {"type": "Sersic", "population": population, "mag": mags}
    spec = {"area": circle(10, 0, 0.5), "n": 4000, "bands": ["r", "g"], "sources": [source]}
    table = generate_table(spec)
    mag, colour = table["mag_r"].value, (table["mag_g"] - table["mag_r"]).value
    assert stats.kstest((mag - 19) / 7, "uniform").pvalue > 1e-3
    assert np.abs(np.median(colour[mag < 21]) - 1.2) < 0.02
    assert np.abs(np.median(colour[mag > 23]) - 0.3) < 0.02
    source["population"] = population | {"weight": "mag"}
    with pytest.raises(ConfigError, match="weight and mag"):
        generate_table(spec)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "seed.*greater than or equal to 0"),
        ({"n": 0}, "n: .*greater than or equal to 1|key n"),
        ({"first_id": 2**63 - 10}, "ids would pass the largest of 64 bits"),
        ({"first_id": 2**63}, "beyond those of 64 bits"),
        ({"bands": ["g", "g"]}, "has one twice"),
        ({"bands": ["r", "i"]}, "a colour is given for r"),
        ({"density": -1.0}, "greater than 0"),
        ({"area": {}, "n": 5}, None),
        ({"bnds": ["r"]}, "did you mean 'bands'"),
        ({"sources": []}, "at least 1"),
        ({"sources": [{"type": "Galaxy", "mag": 20}]}, "Star"),
        ({"sources": [{"type": "Star"}]}, "give mag, or a population"),
        ({"sources": [{"type": "BulgeDisk", "mag": 20}]}, "a BulgeDisk needs bulge_fraction, bulge_half_light_radius"),
        ({"sources": [{"type": "Sersic", "mag": 20, "columns": {"radius": 1}}]}, "no column 'radius'"),
        ({"sources": [{"type": "Star", "mag": 20, "columns": {"ra": 1}}]}, "ra is set by the generator"),
        ({"sources": [{"type": "Stamp", "mag": 20}]}, "a Stamp needs stamp$|a Stamp needs stamp\\."),
        ({"avoid": {"masks": True}}, "avoid.masks: must be a mapping with keys of planes, grow, on .given: true"),
        ({"bands": None}, "key population: bands is missing"),
        (
            {"sources": [{"type": "Sersic", "mag": 20, "columns": {"n": 12.0}}]},
            r"n = 12.* was drawn.*\[0\.3, 6\.2\]",
        ),
        ({"sources": [{"type": "Star", "mag": 20, "columns": {"variability": "saw"}}]}, "'saw'; allowed are sine"),
        ({"sources": [{"type": "Star", "mag": 20, "columns": {"period": "long"}}]}, "a number is needed"),
        ({"sources": [{"type": "Star", "mag": 2e5}]}, "a magnitude of 200000"),
        ({"sources": [{"type": "Trail", "mag": 20}]}, "a Trail needs trail_length"),
        (
            {
                "n": 9000,
                "sources": [{"mag": 20}, {"mag": 20, "fraction": 1e-3, "type": "Trail"}],
            },
            "a Trail needs trail_length",
        ),
        ({"sources": [{"type": "Star", "mag": 20, "mag_relative_to": "depth"}]}, "need the images of a footprint"),
        ({"sources": [{"type": "Star", "mag": 20, "fraction": 1}, {"type": "Sersic", "mag": 20}]}, "leave nothing"),
        ({"avoid": {"masks": {}}}, "needs the images of a footprint"),
    ],
)
def test_descriptions_that_are_refused(changes, said, tmp_path):
    given = SPEC | changes
    if said is None:
        said = "name an area"
    if "bands" not in changes and "sources" in changes:
        given["bands"] = ["g"]
    with pytest.raises((ConfigError, CatalogError), match=said):
        generate_table(given)
    with pytest.raises((ConfigError, CatalogError), match=said):
        generate_catalog(given, tmp_path / "f.parquet")
    assert not list(tmp_path.iterdir())


def test_numbers_and_densities():
    spec = {name: value for name, value in SPEC.items() if name != "n"}
    table = generate_table(spec | {"density": 0.7})
    assert len(table) == pytest.approx(0.7 * np.pi * 30**2, rel=2e-3)
    with pytest.raises(ConfigError, match="give n, the number of sources, or density"):
        generate_table(spec)
    with pytest.raises(CatalogError, match="no sources: the area"):
        generate_table(spec | {"density": 1e-9})
    with pytest.raises(ConfigError, match="n and density"):
        generate_table(spec | {"density": 1.0, "n": 4})
    assert len(generate_table(SPEC, density=0.1)) < 300  # replaces n


def test_problems_are_named_with_their_lines(tmp_path):
    path = tmp_path / "population.yaml"
    path.write_text(
        "area: {region: {ra: 1, dec: 2, radius: 3}}\nn: 10\nbands: [r]\nsources:\n- type: Star\n  mag: {kind: uniform, "
        "low: 3, hihg: 4}\nseeed: 3\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_spec(path)
    assert "did you mean 'seed'" in str(caught.value) and "line 7" in str(caught.value)
    assert "did you mean 'high'" in str(caught.value)
    for mag in ("faint", {"kind": "choice", "values": ["a", "b"]}):
        with pytest.raises(ConfigError, match="numbers are needed"):
            parse_spec(SPEC | {"sources": [{"type": "Star", "mag": mag}]})
    path.write_text("[]")
    with pytest.raises(ConfigError, match="a mapping is needed"):
        load_spec(path)


def test_the_area_of_an_index_in_a_region(tmp_path):
    index = write_outlines(tmp_path / "i.parquet", [outline(10.0, 0.0, 1.0)])
    (tmp_path / "moc.json").write_text("broken")
    spec = {"area": {"footprint": str(index), "region": circle(10.5, 0.0, 0.2)["region"]}, "n": 500, "sources": STARS}
    table = generate_table(spec)
    ra, dec = table["ra"].value, table["dec"].value
    assert ra.max() <= 10.5 and (np.hypot(ra - 10.5, dec) < 0.2001).all()
    with pytest.raises(CorruptFileError, match="coverage map"):
        generate_table(spec, area={"moc": str(tmp_path / "moc.json")})


def test_a_generated_catalogue_is_one_that_campaigns_take(tmp_path):
    """Generated for the images of a campaign, partitioned, and injected by it: every source is on an image."""
    from kits.generation_kit import write_survey
    from skygraft.campaign import Campaign

    config = write_survey(tmp_path, [25.0, 25.0], offset=64.0, size=96)
    mags = {"kind": "uniform", "low": 18.0, "high": 20.0}
    sources = [{"type": "Star", "fraction": 0.7, "mag": mags}, {"type": "Sersic", "mag": mags}]
    generate_catalog({"area": {"footprint": str(config)}, "n": 30, "sources": sources}, tmp_path / "fakes.parquet")
    summary = Campaign.from_yaml(config).run(n_workers=0)
    assert summary.n_failed == 0
    truth = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "out/truth").rglob("*.parquet"))])
    assert set(truth["injection_id"].to_pylist()) == set(range(30))
