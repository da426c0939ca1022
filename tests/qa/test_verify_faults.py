"""Faults planted in real outputs: each is found, and named by the check that is made for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from scipy import ndimage

from kits.verification_kit import (
    change_pixels,
    first,
    make_campaign,
    make_catalog,
    note_again,
    pair_of,
    settings_of,
)
from skygraft.campaign import Campaign, read_plan
from skygraft.injection import inject
from skygraft.qa.verify import Verification, verify_campaign
from skygraft.qa.verify_checks import check_pair
from skygraft.records.files import Layout
from skygraft.records.image_record import content_key, read_record
from skygraft.tables.truth_parts import write_truth_part


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of one image, done."""
    folder = tmp_path_factory.mktemp("verified")
    make_campaign(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of two overlapping detectors of a visit, done."""
    folder = tmp_path_factory.mktemp("two")
    make_campaign(folder, n_images=2)
    return folder


def copy(folder: Path, to: Path) -> Campaign:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return Campaign.from_yaml(to / "campaign.yaml")


@pytest.fixture
def campaign(whole: Path, tmp_path: Path) -> Campaign:
    """A copy of it that a test may damage."""
    return copy(whole, tmp_path / "copy")


@pytest.fixture
def overlapping(two: Path, tmp_path: Path) -> Campaign:
    """A copy of the campaign of two images."""
    return copy(two, tmp_path / "both")


def verdicts(campaign: Campaign) -> dict[str, dict[str, Any]]:
    """The rows of the first image, by check."""
    return {row["check"]: row for row in check_pair(pair_of(campaign), settings_of(campaign)).to_pylist()}


def failed(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {check for check, row in rows.items() if row["verdict"] == "fails"}


def verify(campaign: Campaign) -> tuple[Verification, dict[str, str]]:
    """Verify everything; the notes of the checks that failed."""
    found = verify_campaign(campaign, sample=None, processes=1)
    assert not found.ok
    return found, {row["check"]: row["note"] for row in found.failures}


def test_whole_outputs_pass_every_check(campaign: Campaign, overlapping: Campaign) -> None:
    rows = verdicts(campaign)
    assert {row["verdict"] for row in rows.values()} == {"passes"}, rows
    found = verify_campaign(overlapping, sample=None, processes=1)
    assert found.ok and (found.n_images, found.n_done, found.n_failures) == (2, 2, 0)
    assert {one.verdict for one in found.checks} == {"passes"}


@pytest.mark.parametrize("scale", [0.995, 1.005])
def test_flux_half_a_percent_off(campaign: Campaign, scale: float) -> None:
    change_pixels(campaign, lambda before, after: before + scale * (after.astype(float) - before))
    rows = verdicts(campaign)
    assert "flux" in failed(rows)
    assert rows["flux"]["value"] == pytest.approx(scale - 1, abs=1e-3)
    assert not failed(rows) & {"checksum", "centroid", "position angle", "truth", "mask", "untouched"}


def test_flux_of_galaxies_alone_half_a_percent_off(campaign: Campaign) -> None:
    pair = pair_of(campaign)
    galaxies = pair.sources[np.asarray(pair.sources["source_type"]).astype(str) == "Sersic"]
    light = inject(pair.before, galaxies, noise=False).exposure.image - pair.before.image
    change_pixels(campaign, lambda before, after: after + 0.005 * light)
    rows = verdicts(campaign)
    assert "flux" in failed(rows) and rows["flux"]["value"] == pytest.approx(0.005, abs=5 * rows["flux"]["error"])
    assert rows["flux"]["note"].startswith("stars: +0.0")


@pytest.mark.parametrize("shift", [(0.1, 0.0), (0.0, -0.1), (0.07, 0.07)])
def test_a_tenth_of_a_pixel_off(campaign: Campaign, shift: tuple[float, float]) -> None:
    def move(before: Any, after: Any) -> Any:
        moved = ndimage.fourier_shift(np.fft.fft2(after.astype(float) - before), shift[::-1])
        return before + np.fft.ifft2(moved).real

    change_pixels(campaign, move)
    rows = verdicts(campaign)
    assert "centroid" in failed(rows)
    assert rows["centroid"]["value"] == pytest.approx(np.hypot(*shift), abs=0.02)
    assert not failed(rows) & {"position angle", "flux", "closure", "truth", "checksum"}


@pytest.mark.parametrize("turn", [5.0, -5.0])
def test_five_degrees_turned(campaign: Campaign, turn: float) -> None:
    pair, image = pair_of(campaign), first(campaign)
    turned = pair.sources.copy()
    turned["pa"] = turned["pa"] + turn * turned["pa"].unit if turned["pa"].unit else turned["pa"] + turn
    options = campaign.config.injection.options()
    wrong = inject(pair.before, turned, options=options, image_id=image.image_id, band=image.band)
    change_pixels(campaign, lambda before, after: wrong.exposure.image)
    rows = verdicts(campaign)
    assert "position angle" in failed(rows)
    # North is up and East is left: the angle on the pixels grows with the position angle.
    assert rows["position angle"]["value"] == pytest.approx(turn, abs=0.6)
    assert not failed(rows) & {"centroid", "flux", "closure", "truth", "checksum"}


def test_a_tile_swapped(campaign: Campaign) -> None:
    def swap(before: Any, after: Any) -> Any:
        swapped = after.copy()
        swapped[64:128, 64:128], swapped[192:256, 64:128] = after[192:256, 64:128], after[64:128, 64:128]
        return swapped

    change_pixels(campaign, swap)
    rows = verdicts(campaign)
    assert {"residual", "untouched"} <= failed(rows) and "checksum" not in failed(rows)
    note = rows["residual"]["note"]
    assert "x 64 to 127" in note and ("y 64 to 127" in note or "y 192 to 255" in note), note


def test_variance_plane_missing(campaign: Campaign) -> None:
    output = campaign.layout.images / first(campaign).output
    with fits.open(output, mode="update") as hdus:
        del hdus["VARIANCE"]
    note_again(campaign, first(campaign))
    rows = verdicts(campaign)
    assert failed(rows) == {"variance"}
    assert rows["variance"]["note"] == "the output has no variance plane, the original has one"


def test_variance_not_added(campaign: Campaign) -> None:
    change_pixels(campaign, lambda before, after: before, "VARIANCE")
    rows = verdicts(campaign)
    assert failed(rows) == {"variance"} and rows["variance"]["value"] == pytest.approx(-1)


def test_variance_not_added_in_a_part(campaign: Campaign) -> None:
    def part(before: Any, after: Any) -> Any:
        after = after.copy()
        after[128:192, 128:192] = before[128:192, 128:192]
        return after

    change_pixels(campaign, part, "VARIANCE")
    rows = verdicts(campaign)
    assert failed(rows) == {"variance"} and "1 block" in rows["variance"]["note"]


def test_mask_plane_missing(campaign: Campaign) -> None:
    output = campaign.layout.images / first(campaign).output
    with fits.open(output, mode="update") as hdus:
        header = hdus["MASK"].header
        hdus["MASK"].data &= ~np.int32(1 << header["MP_INJECTED"])
        del header["MP_INJECTED"]
    note_again(campaign, first(campaign))
    rows = verdicts(campaign)
    assert failed(rows) == {"mask"} and "there is no plane INJECTED" in rows["mask"]["note"]


def test_mask_planes_set_in_the_wrong_places(campaign: Campaign) -> None:
    bits = [1 << pair_of(campaign).after.mask_planes[name].bit_length() - 1 for name in ("INJECTED", "INJECTED_CORE")]

    def spoil(before: Any, after: Any) -> Any:
        after = after.copy()
        after[after & bits[1] != 0] &= ~np.int32(bits[1])
        after[:2, :3] |= bits[0]
        after[41, 150] = 0  # BAD
        return after

    change_pixels(campaign, spoil, "MASK")
    rows = verdicts(campaign)
    assert failed(rows) == {"mask", "untouched"}
    assert "INJECTED is set without light on 6 pixels" in rows["mask"]["note"]
    assert "INJECTED_CORE is missing on 144 pixels" in rows["mask"]["note"]
    assert rows["untouched"]["note"] == "1 pixel of the mask plane changed"


def test_untouched_pixels_changed(campaign: Campaign) -> None:
    pair = pair_of(campaign)
    blank = pair.before.planes.copy(deep=True)
    blank["image"].values[:] = 0
    light = inject(pair.before.replace(planes=blank), pair.sources, noise=False).exposure.image
    empty = np.argwhere(light == 0)

    def change(before: Any, after: Any) -> Any:
        after = after.copy()
        for row, column in empty[:3]:
            after[row, column] = np.nextafter(after[row, column], np.float32(np.inf))
        return after

    assert len(empty) > 1000
    change_pixels(campaign, change)
    rows = verdicts(campaign)
    assert failed(rows) == {"untouched"} and rows["untouched"]["value"] == 3


def rewrite_truth(campaign: Campaign, table: pa.Table, **record: Any) -> None:
    image = first(campaign)
    layout = Layout(campaign.config.output)
    write_truth_part(layout.truth_part(image.tract, image.patch, image.stem), table)
    note_again(campaign, image, **record)


def truth_of(campaign: Campaign) -> pa.Table:
    image = first(campaign)
    part = Layout(campaign.config.output).truth_part(image.tract, image.patch, image.stem)
    with pa.ipc.open_file(part) as file:
        return file.read_all()


def test_truth_row_missing(campaign: Campaign) -> None:
    truth = truth_of(campaign)
    n = truth.num_rows - 1
    rewrite_truth(campaign, pa.concat_tables([truth[:4], truth[5:]]), n_sources=n, n_drawn=n)
    rows = verdicts(campaign)
    assert failed(rows) == {"truth"}
    assert "1 sources reach the image and have no row of truth (injection_id 14)" in rows["truth"]["note"]


def test_truth_rows_twice_and_of_nowhere(campaign: Campaign) -> None:
    truth = truth_of(campaign)
    strange = truth[3:4].set_column(0, truth.schema.field(0), pa.array([99_999], truth.schema.field(0).type))
    rewrite_truth(campaign, pa.concat_tables([truth, truth[2:3], strange]))
    rows = verdicts(campaign)
    assert "truth" in failed(rows)
    for words in ("more than once (injection_id 12)", "(injection_id 99999)", "n_sources is 16, the truth has 18"):
        assert words in rows["truth"]["note"]


@pytest.mark.parametrize(("column", "add"), [("x", 0.01), ("flux_deposited", 5.0), ("flags", 512)])
def test_values_of_truth_changed(campaign: Campaign, column: str, add: float) -> None:
    truth = truth_of(campaign)
    i = truth.schema.get_field_index(column)
    values = truth.column(i).to_numpy().copy()
    values[7] += add
    rewrite_truth(campaign, truth.set_column(i, truth.schema.field(i), pa.array(values)))
    rows = verdicts(campaign)
    assert failed(rows) == {"truth"} and column in rows["truth"]["note"] and "17" in rows["truth"]["note"]


def test_truth_table_row_missing(overlapping: Campaign) -> None:
    table = next(overlapping.layout.truth.rglob("part-0.parquet"))
    truth = pq.ParquetFile(table).read()
    pq.write_table(pa.concat_tables([truth[:5], truth[6:]]), table)
    _, notes = verify(overlapping)
    assert set(notes) == {"tables"}
    lost = truth.column("injection_id")[5].as_py()
    assert f"n_images of 1 source is not that of the truth: injection_id {lost} has" in notes["tables"]


def test_two_primaries(overlapping: Campaign) -> None:
    table = next(overlapping.layout.truth.rglob("part-0.parquet"))
    truth = pq.ParquetFile(table).read()
    ids, primary = truth.column("injection_id").to_numpy(), truth.column("is_primary").to_numpy(zero_copy_only=False)
    twice = [i for i in np.unique(ids) if (ids == i).sum() == 2 and primary[ids == i].sum() == 1]
    changed = primary | (ids == twice[0])
    i = truth.schema.get_field_index("is_primary")
    pq.write_table(truth.set_column(i, truth.schema.field(i), pa.array(changed)), table)
    found, notes = verify(overlapping)
    assert set(notes) == {"primary", "tables"}
    names = ", ".join(sorted(image.image_id for image in read_plan(overlapping.layout.plan)))
    assert notes["primary"] == f"injection_id {twice[0]} has 2 primary rows in band r, visit 500: {names}"
    verdict = {one.check: one.verdict for one in found.checks}
    assert (verdict["primary"], verdict["tables"], verdict["truth"]) == ("fails", "fails", "passes")


def flip(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    content[where + 1] ^= 1
    path.write_bytes(content)


def test_two_bytes_flipped(overlapping: Campaign) -> None:
    image = first(overlapping)
    output = overlapping.layout.images / image.output
    # The lowest bits of two pixels.
    flip(output, 2880 * 5 + 3)
    found, notes = verify(overlapping)
    assert "checksum" in notes and output.name in notes["checksum"] and "SHA-256" in notes["checksum"]
    assert {row["image_id"] for row in found.failures} == {image.image_id}


def test_outputs_that_cannot_be_read_are_rows(overlapping: Campaign) -> None:
    one, other = read_plan(overlapping.layout.plan)
    (overlapping.layout.images / one.output).unlink()
    part = Layout(overlapping.config.output).truth_part(other.tract, other.patch, other.stem)
    flip(part, 700)
    found, _ = verify(overlapping)
    seen = {(row["image_id"], row["check"]): row["note"] for row in found.failures}
    assert set(seen) == {(image.image_id, check) for image in (one, other) for check in ("outputs", "checksum")}
    assert "it is gone" in seen[one.image_id, "checksum"]
    assert part.name in seen[other.image_id, "checksum"]
    # One of two that is gone does not hide the other's verdicts.
    table = pq.read_table(overlapping.layout.root / "verification/verdicts.parquet")
    assert table.filter(pc.equal(table["verdict"], "fails")).num_rows >= 4


def test_an_older_pixel_version_is_said(campaign: Campaign) -> None:
    image = first(campaign)
    layout = Layout(campaign.config.output)
    path = layout.record(image.tract, image.patch, image.stem)
    record = read_record(path, image.image_id)
    assert record is not None
    key = content_key(record["image"], record["inputs"], record["catalog"], record["settings"], 1)
    note_again(campaign, image, code=1, key=key)
    rows = verdicts(campaign)
    assert rows["version"]["verdict"] == "not applicable"
    assert "made by a skygraft of pixel version 1" in rows["version"]["note"]
    assert not failed(rows)


def test_an_output_of_another_size(campaign: Campaign) -> None:
    image = first(campaign)
    output = campaign.layout.images / image.output
    with fits.open(output) as hdus:
        cut = fits.HDUList([type(h)(h.data[:200], h.header) for h in hdus])
    cut.writeto(output, overwrite=True)
    note_again(campaign, image)
    rows = verdicts(campaign)
    assert "residual" in failed(rows) and "320 x 200" in rows["residual"]["note"]


def test_the_catalogue_holds_enough_photons_to_see_half_a_percent() -> None:
    flux = 10 ** (-0.4 * (np.asarray(make_catalog()["mag_r"]) - 27.0))
    assert 2 * flux.sum() > 4e6
