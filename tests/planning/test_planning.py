"""The planner against brute force: every image and every source, by spherical geometry in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kits.plan_kit import row_digests
from skygraft.catalog import read_partitions
from skygraft.config.campaign import CampaignConfig, load_config
from skygraft.errors import CampaignError
from skygraft.planning import patches
from skygraft.planning.plan import plan_images
from skygraft.planning.selection import digest_rows, select
from skygraft.records.plan_file import PlannedImage
from skygraft.skymap import get_skymap

MARGIN = 20.0
HALF = (150.0, 90.0)
"""Half the width and height of an image, arcsec."""

FIELDS = {"equator": (150.0, 2.0), "wrap": (0.0, -35.0), "north": (77.0, 90.0), "south": (10.0, -89.8)}


def vectors(ra: Any, dec: Any) -> np.ndarray:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def lonlat(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.degrees(np.arctan2(v[..., 1], v[..., 0])) % 360.0, np.degrees(
        np.arctan2(v[..., 2], np.hypot(v[..., 0], v[..., 1]))
    )


def around(ra: float, dec: float, radius: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions within `radius` degrees, by rotating those around the pole."""
    distance, angle = np.radians(radius) * np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    local = np.stack([np.sin(distance) * np.cos(angle), np.sin(distance) * np.sin(angle), np.cos(distance)], axis=-1)
    tilt, turn = np.radians(90.0 - dec), np.radians(ra)
    about_y = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return lonlat(local @ (about_z @ about_y).T)


class Survey:
    """Random images and sources in a field, and what each image should get."""

    def __init__(self, root: Path, field: str, *, movers: bool = False, n_images: int = 60, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.root = root
        self.ra, self.dec = around(*FIELDS[field], 0.5, n_images, rng)
        self.turn = rng.uniform(0, np.pi, n_images)
        self.mjd = 60000.0 + rng.integers(0, 6, n_images)
        self.visit = rng.integers(1, 4, n_images)
        self.bands = np.array(["r", "i"])[rng.integers(0, 2, n_images)]
        n = 4000
        ra, dec = around(*FIELDS[field], 0.7, n, rng)
        star = rng.random(n) < 0.5
        self.columns: dict[str, Any] = {
            "injection_id": rng.permutation(n) + 10,
            "ra": ra,
            "dec": dec,
            "source_type": np.where(star, "Star", "Sersic").tolist(),
            "mag_r": rng.uniform(18, 25, n),
            "mag_i": rng.uniform(18, 25, n),
            "n": np.where(star, np.nan, 1.0),
            "half_light_radius": np.where(star, np.nan, rng.uniform(0.1, 3, n)),
            "visit": np.where(rng.random(n) < 0.2, rng.integers(1, 4, n), -1),
        }
        if movers:
            kind = rng.integers(0, 4, n)
            self.columns["pm_ra_cosdec"] = np.where(kind == 1, 3000.0, 0.0)
            # Half a degree in a day; stars with neither stand still.
            self.columns["rate_dec"] = np.where(kind == 2, 75.0, 0.0)
            self.columns["epoch_mjd"] = np.where(kind == 0, np.nan, 60002.0)
        root.mkdir(exist_ok=True)
        pq.write_table(pa.table(self.columns), root / "fakes.parquet")
        self.write_index()

    def frame(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Middle of an image, and the directions of its columns and rows."""
        middle = vectors(self.ra[i], self.dec[i])
        east = np.cross([0.0, 0.0, 1.0], middle)
        east /= np.linalg.norm(east)
        north = np.cross(middle, east)
        cos, sin = np.cos(self.turn[i]), np.sin(self.turn[i])
        return middle, cos * east + sin * north, cos * north - sin * east

    def index(self) -> dict[str, list[Any]]:
        polygons = []
        for i in range(len(self.ra)):
            middle, x, y = self.frame(i)
            w, h = np.radians(np.array(HALF) / 3600)
            corners = middle + np.array([[-w], [w], [w], [-w]]) * x + np.array([[-h], [-h], [h], [h]]) * y
            polygons.append(np.column_stack(lonlat(corners)).tolist())
        n = len(self.ra)
        return {
            "image_id": [f"cam-{i:03d}" for i in range(n)],
            "path": [f"{i % 7}/{i}.fits" for i in range(n)],
            "format": ["fits"] * n,
            "visit": self.visit.tolist(),
            "band": self.bands.tolist(),
            "mjd": self.mjd.tolist(),
            "nx": [1500] * n,
            "ny": [900] * n,
            "ra": self.ra.tolist(),
            "dec": self.dec.tolist(),
            "polygon": polygons,
            "pixel_scale": [0.2] * n,
            "n_bytes": [10**7] * n,
        }

    def write_index(self, **changes: Any) -> None:
        pq.write_table(pa.table(self.index() | changes), self.root / "images.parquet", row_group_size=17)

    def config(self, output: str = "out", **changes: Any) -> CampaignConfig:
        text = {
            "name": "random",
            "survey": {"index": "images.parquet"},
            "catalog": {"path": "fakes.parquet"},
            "output": f"../{output}",
            "margin_arcsec": MARGIN,
        }
        (self.root / "campaign.yaml").write_text(yaml.safe_dump(text | changes))
        return load_config(self.root / "campaign.yaml")

    def positions(self, i: int) -> np.ndarray:
        """Where the sources are at the time of an image."""
        c = self.columns
        place = vectors(c["ra"], c["dec"])
        if "epoch_mjd" not in c:
            return place
        days = np.nan_to_num(self.mjd[i] - c["epoch_mjd"])
        east = np.cross([0.0, 0.0, 1.0], place)
        east /= np.linalg.norm(east, axis=1, keepdims=True)
        north = np.cross(place, east)
        along_east = np.radians(c["pm_ra_cosdec"] / 3.6e6) * days / 365.25
        along_north = np.radians(c["rate_dec"] / 3600) * 24 * days
        arc = np.hypot(along_east, along_north)[:, None]
        step = (along_east[:, None] * east + along_north[:, None] * north) / np.where(arc > 0, arc, 1)
        return np.cos(arc) * place + np.sin(arc) * step

    def wanted(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Which rows an image gets, and which are too near the margin's edge to tell."""
        middle, x, y = self.frame(i)
        place = self.positions(i)
        depth = place @ middle
        plane = np.stack([place @ x, place @ y], axis=-1) / depth[:, None] * 180 / np.pi * 3600
        beyond = np.hypot(*np.maximum(np.abs(plane) - HALF, 0).T)
        visit = np.isin(self.columns["visit"], [-1, self.visit[i]])
        unsure = (np.abs(beyond - MARGIN) < 1e-3) & (depth > 0)
        return (beyond <= MARGIN) & (depth > 0) & visit, unsure


@pytest.mark.parametrize("movers", [False, True])
@pytest.mark.parametrize("field", FIELDS)
def test_the_planner_finds_what_brute_force_finds(tmp_path: Path, field: str, movers: bool) -> None:
    survey = Survey(tmp_path / "survey", field, movers=movers)
    config = survey.config()
    plan = plan_images(config)
    images = {image.image_id: image for image in plan.images()}
    assert len(images) == 60
    assert plan.metadata["problems"] == []
    skymap = get_skymap("hsc_rings_v1")
    tract, patch = skymap.locate(survey.ra, survey.dec)
    stored = [(int(t), int(p)) for t, p in np.column_stack(skymap.locate(survey.columns["ra"], survey.columns["dec"]))]
    ids = survey.columns["injection_id"]
    total = 0
    for i in range(60):
        image = images[f"cam-{i:03d}"]
        wanted, unsure = survey.wanted(i)
        assert not unsure.any(), "choose another seed"
        rows = np.flatnonzero(wanted)
        total += rows.size
        assert image.n_sources == rows.size
        assert (image.tract, image.patch) == (tract[i], patch[i])
        assert set(image.reads) == {stored[row] for row in rows}
        assert image.reads == tuple(sorted(image.reads))
        # What a worker reads and selects is just that.
        table = read_partitions(config.output / "catalog", image.reads)
        chosen = table[select(table, image.polygon, MARGIN, mjd=image.mjd, visit=image.visit)]
        assert chosen["injection_id"].tolist() == sorted(ids[rows].tolist())
        assert image.catalog_key == digest_rows(row_digests(chosen, image.band))
    assert total > 300
    order = [(image.tract, image.patch, image.image_id) for image in plan.images()]
    assert order == sorted(order)
    assert not list(config.output.glob(".planning*"))


@pytest.mark.usefixtures("forked_processes")
def test_processes_and_parts_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = Survey(tmp_path / "survey", "wrap", movers=True)
    one = plan_images(survey.config("one")).path.read_bytes()
    monkeypatch.setattr("skygraft.planning.plan._GROUP", 7)
    monkeypatch.setattr("skygraft.planning.patches._PIECE", 2)
    assert plan_images(survey.config("parts")).path.read_bytes() == one
    assert plan_images(survey.config("two"), processes=2).path.read_bytes() == one
    # The order of the index does not matter either.
    columns = survey.index()
    order = np.random.default_rng(1).permutation(60)
    survey.write_index(**{name: [values[k] for k in order] for name, values in columns.items()})
    again = list(plan_images(survey.config("order")).images())
    assert again == list(plan_images(survey.config("two")).images())


def test_galaxies_cost_more_than_stars(tmp_path: Path) -> None:
    survey = Survey(tmp_path / "survey", "equator")
    plain = list(plan_images(survey.config()).images())
    stars = pa.table(survey.columns | {"source_type": ["Star"] * 4000})
    pq.write_table(stars, survey.root / "fakes.parquet")
    cheap = list(plan_images(survey.config("stars")).images())
    for image, star in zip(plain, cheap, strict=True):
        base = 0.1 + 0.02 * 10 + 0.25 * 1.35
        assert star.cost_seconds == pytest.approx(base + 0.000025 * star.n_sources, abs=2e-3)
        assert image.cost_seconds >= star.cost_seconds
    assert sum(i.cost_seconds - s.cost_seconds for i, s in zip(plain, cheap, strict=True)) > 0.01


def test_many_stars_of_a_small_image_cost_what_their_grid_does(tmp_path: Path, monkeypatch) -> None:
    survey = Survey(tmp_path / "survey", "equator")
    stars = pa.table(survey.columns | {"source_type": ["Star"] * 4000})
    pq.write_table(stars, survey.root / "fakes.parquet")
    megapixels, of_star, alone = 1.35, 0.00001, 0.01
    monkeypatch.setitem(patches._SECONDS, "Star", alone)
    base = 0.1 + 0.02 * 10 + 0.25 * megapixels
    of_area = 0.115  # as if images had a few thousand times as many stars
    monkeypatch.setattr(patches, "_CROWDED", (of_area, of_star))
    gains = []
    for image in plan_images(survey.config("grid")).images():
        together, apart = of_area * megapixels + of_star * image.n_sources, alone * image.n_sources
        assert image.cost_seconds == pytest.approx(base + min(together, apart), abs=2e-3)
        gains.append(apart - together)
    assert min(gains) < 0 < max(gains)


def test_images_without_a_time_see_no_movers(tmp_path: Path) -> None:
    survey = Survey(tmp_path / "survey", "equator", movers=True)
    times: list[float | None] = survey.mjd.tolist()
    times[5] = None
    survey.write_index(mjd=times)
    config = survey.config()
    plan = plan_images(config)
    (problem,) = plan.metadata["problems"]
    assert "cam-005" in problem and "sources move" in problem
    bad: list[PlannedImage] = [image for image in plan.images() if image.image_id == "cam-005"]
    assert bad[0].n_sources == 0
    # The worker sees the same movers, and fails with the same words.
    table = read_partitions(config.output / "catalog", bad[0].reads)
    with pytest.raises(ValueError, match="sources move") as caught:
        select(table, bad[0].polygon, MARGIN, mjd=None, visit=bad[0].visit)
    assert problem == f"cam-005: {caught.value}"


def test_images_on_no_patch_are_planned_alone(tmp_path: Path) -> None:
    survey = Survey(tmp_path / "survey", "equator")
    tract = {"ra": 150.0, "dec": 2.0, "pixel_scale": 0.2, "size": [6000, 6000], "patches": [3, 3]}
    skymap = {"kind": "explicit", "tracts": [tract]}
    plan = plan_images(survey.config(skymap=skymap))
    off = [image for image in plan.images() if image.tract < 0]
    assert 0 < len(off) < 60
    inside, _ = get_skymap(skymap).locate(survey.columns["ra"], survey.columns["dec"])
    for image in off:
        wanted, _ = survey.wanted(int(image.image_id[-3:]))
        # Sources of no tract are on no image.
        assert image.n_sources == np.count_nonzero(wanted & (inside == 0))


def test_nothing_in_common(tmp_path: Path) -> None:
    survey = Survey(tmp_path / "survey", "equator")
    pq.write_table(
        pa.table(survey.columns | {"dec": -np.asarray(survey.columns["dec"])}), survey.root / "fakes.parquet"
    )
    with pytest.raises(CampaignError, match=r"none of the 4000 sources .* of the 60 images"):
        plan_images(survey.config())
    assert not (tmp_path / "out" / "plan.parquet").exists()


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(FLOATS, FLOATS, FLOATS, st.sampled_from(["Star", "Sersic", "Stamp"])), min_size=1, max_size=12),
    st.data(),
)
def test_digests_are_of_rows(rows: list[tuple[float, float, float, str]], data: Any) -> None:
    def table(rows: list[tuple[float, float, float, str]]) -> pa.Table:
        ra, r, i, kind = zip(*rows, strict=True)
        return pa.table({"ra": ra, "mag_r": r, "mag_i": i, "source_type": kind, "visit": [1] * len(rows)})

    whole = row_digests(table(rows), "r")
    order = data.draw(st.permutations(range(len(rows))))
    np.testing.assert_array_equal(row_digests(table([rows[k] for k in order]), "r"), whole[list(order)])
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, 2))
    value = data.draw(FLOATS)
    changed = [list(r) for r in rows]
    changed[row][column] = value
    after = row_digests(table([tuple(r) for r in changed]), "r")  # type: ignore[misc]
    differs = np.any(after != whole, axis=1)
    old = np.float64(rows[row][column])
    same = (np.isnan(old) and np.isnan(value)) or old.tobytes() == np.float64(value).tobytes()
    expected = np.zeros(len(rows), dtype=bool)
    expected[row] = not same and column != 2
    np.testing.assert_array_equal(differs, expected)


def test_digests_know_names_kinds_and_missing_values() -> None:
    def digest(**columns: Any) -> list[int]:
        return row_digests(pa.table({name: [value] for name, value in columns.items()}), "r")[0].tolist()

    assert digest(a=1.0, b=2.0) == digest(b=2.0, a=1.0)
    assert digest(a=1.0, b=2.0) != digest(a=2.0, b=1.0)
    assert digest(a=1.0) != digest(b=1.0)
    assert digest(a=1.0) != digest(a=1)
    assert digest(a=pa.scalar(None, pa.float64())) == digest(a=float("nan"))
    assert digest(a=pa.scalar(None, pa.int64())) != digest(a=0)
    assert digest(a="") != digest(a=pa.scalar(None, pa.string()))
    assert digest(mag_per_pixel=True, a=1) != digest(mag_per_pixel=False, a=1)
