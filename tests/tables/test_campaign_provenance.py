"""The provenance of a campaign: valid PROV-JSON, complete, and with the calibration at its top."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kits.consolidation_kit import EVERYWHERE, SKYMAP, here, make_catalog, rows_of
from kits.finished_images import APERTURE, SOFTWARE, Outputs, planned
from skygraft.records.events import RunEnded, RunStarted
from skygraft.tables.calibrations import calibration_use, fold, mixed_calibrations, split_origin, tidy
from skygraft.tables.consolidate import Consolidation, consolidate
from skygraft.tables.provenance import write_provenance

RUNS = [
    RunStarted(time="2026-11-01T10:00:00+00:00"),
    RunStarted(time="2026-11-01T12:00:00+00:00"),  # the first was killed
    RunEnded(time="2026-11-01T13:00:00+00:00", n_done=1, interrupted=15),
    RunStarted(time="2026-11-02T12:00:00+00:00"),
]
ENDED = "2026-11-02T13:30:00+00:00"

# The relations of PROV-JSON that have two ends, and those ends (W3C Member Submission "The PROV-JSON Serialization").
RELATIONS = {
    "used": ("prov:activity", "prov:entity"),
    "wasGeneratedBy": ("prov:entity", "prov:activity"),
    "wasAssociatedWith": ("prov:activity", "prov:agent"),
    "wasDerivedFrom": ("prov:generatedEntity", "prov:usedEntity"),
    "wasInformedBy": ("prov:informed", "prov:informant"),
    "hadMember": ("prov:collection", "prov:entity"),
}
ENDS = {
    "prov:activity": "activity",
    "prov:informed": "activity",
    "prov:informant": "activity",
    "prov:agent": "agent",
}


def check_prov_json(document: dict[str, Any]) -> None:
    """The rules of PROV-JSON, one by one."""
    prefixes = document["prefix"]
    assert prefixes["prov"] == "http://www.w3.org/ns/prov#"
    assert set(document) <= {"prefix", "entity", "activity", "agent", *RELATIONS}

    def check_name(name: str) -> None:
        prefix, colon, local = name.partition(":")
        assert colon
        assert local
        assert prefix in prefixes, name

    def check_value(value: Any) -> None:
        if isinstance(value, list):
            assert value
            for one in value:
                assert not isinstance(one, list)
                check_value(one)
        elif isinstance(value, dict):
            assert set(value) <= {"$", "type", "lang"}
            assert isinstance(value["$"], str)
            check_name(value["type"])
            if value["type"] == "prov:QUALIFIED_NAME":
                check_name(value["$"])
            if value["type"] == "xsd:long":
                int(value["$"])
            if value["type"] == "xsd:double":
                float(value["$"])
        else:
            assert isinstance(value, str | bool), value

    for kind in ("entity", "activity", "agent"):
        for name, attributes in document[kind].items():
            check_name(name)
            for key, value in attributes.items():
                check_name(key)
                check_value(value)
            for key in ("prov:startTime", "prov:endTime"):
                if key in attributes:
                    assert kind == "activity"
                    assert datetime.fromisoformat(attributes[key]).tzinfo is not None
    for relation, ends in RELATIONS.items():
        for name, content in document.get(relation, {}).items():
            assert name.startswith("_:")
            for end in ends:
                assert content[end] in document[ENDS.get(end, "entity")], (relation, end)
            for extra in set(content) - set(ends):
                assert (relation, extra) == ("wasAssociatedWith", "prov:plan")
                assert content[extra] in document["entity"]


def make(folder: Path, calibrations: list[dict[str, Any]], done: int | None = None) -> tuple[Outputs, Consolidation]:
    images = [
        planned(f"im{i}", (0, 0), EVERYWHERE, band="gr"[i % 2], instrument=f"cam{i % 2}")
        for i in range(len(calibrations))
    ]
    outputs = Outputs(folder, make_catalog(), SKYMAP, images)
    for i, calibration in enumerate(calibrations[:done]):
        outputs.finish(
            f"im{i}",
            rows_of([3]),
            calibration=calibration,
            host=f"node-{i % 2}",
            software=SOFTWARE | ({"numpy": "9.9"} if i == 0 else {}),
        )
    return outputs, consolidate(outputs.config, outputs.plan, here)


def write(outputs: Outputs, found: Consolidation, **counts: int) -> tuple[str, dict[str, Any]]:
    write_provenance(outputs.config, outputs.plan, found, runs=RUNS, ended=ENDED, **({"n_failed": 0} | counts))
    text = (outputs.root / "provenance.json").read_text()
    return text, json.loads(text)


def number(value: dict[str, str]) -> float:
    return float(value["$"])


def test_one_calibration(tmp_path: Path) -> None:
    origins = [APERTURE | {"origin": f"CALAPRAD in image-{i}.fits", "radius_arcsec": 2.4 + 1e-4 * i} for i in range(4)]
    outputs, found = make(tmp_path, origins)
    text, document = write(outputs, found)
    check_prov_json(document)
    # The first thing to be read.
    assert text.index("All images use the same calibration reference") < 400
    top = next(iter(document["entity"].values()))
    assert top["sg:mixed_calibrations"] is False
    (aperture,) = [v for k, v in document["entity"].items() if k.startswith("sg:calibration-")]
    assert number(aperture["sg:radius_pixels"]) == 12.0
    assert number(aperture["sg:diameter_pixels"]) == 24.0
    assert (number(aperture["sg:radius_arcsec_min"]), number(aperture["sg:radius_arcsec_max"])) == (2.4, 2.4003)
    assert number(aperture["sg:n_images"]) == 4
    assert aperture["sg:origin"] == "CALAPRAD"
    assert aperture["sg:example_files"] == [f"image-{i}.fits" for i in range(3)]
    assert (aperture["sg:bands"], aperture["sg:instruments"]) == (["g", "r"], ["cam0", "cam1"])
    assert not any("WARNING" in line for line in found.lines())
    assert "12 pix" in found.lines()[0]


def test_different_apertures_are_told_first(tmp_path: Path) -> None:
    other = {"kind": "aperture", "radius_pixels": 8.0, "radius_arcsec": 1.6, "origin": "given"}
    outputs, found = make(tmp_path, [APERTURE, APERTURE, other, {"kind": "psf_model", "origin": "zpt in ccds"}])
    text, document = write(outputs, found)
    check_prov_json(document)
    top = next(iter(document["entity"].values()))
    assert top["sg:mixed_calibrations"] is True
    assert text.index("do NOT all use the same calibration reference") < 400
    assert document["activity"]["sg:run"]["sg:mixed_calibrations"] is True
    counts = {v["sg:origin"]: number(v["sg:n_images"]) for k, v in document["entity"].items() if "calibration-" in k}
    assert counts == {"CALAPRAD": 2, "given": 1, "zpt in ccds": 1}
    lines = found.lines()
    assert lines[0].startswith("WARNING: the images do not all use the same calibration")
    assert any("1 images: aperture of radius 8 pix = 1.6 arcsec (given)" in line for line in lines[1:4])


def test_what_it_was_made_of(tmp_path: Path) -> None:
    outputs, found = make(tmp_path, [APERTURE] * 5)
    _, document = write(outputs, found)
    catalog, plan = document["entity"]["sg:catalog"], document["entity"]["sg:plan"]
    assert catalog["sg:sha256"] == hashlib.sha256((tmp_path / "fakes.parquet").read_bytes()).hexdigest()
    assert plan["sg:sha256"] == hashlib.sha256((outputs.root / "plan.parquet").read_bytes()).hexdigest()
    configuration = document["entity"]["sg:configuration"]
    assert configuration["sg:sha256"] == hashlib.sha256((outputs.root / "campaign.yaml").read_bytes()).hexdigest()
    agents = {number(a["sg:n_images"]): a["sg:version-numpy"] for a in document["agent"].values()}
    assert agents == {1: "9.9", 4: "2.3"}
    run = document["activity"]["sg:run"]
    assert (number(run["sg:n_hosts"]), number(run["sg:seed"]), run["sg:complete"]) == (2, 0, True)
    times = [(a["prov:startTime"], a.get("prov:endTime")) for k, a in document["activity"].items() if k != "sg:run"]
    assert times == [
        (RUNS[0].time, None),
        (RUNS[1].time, RUNS[2].time),
        (RUNS[3].time, ENDED),
    ]
    assert (run["prov:startTime"], run["prov:endTime"]) == (RUNS[0].time, ENDED)


def test_an_incomplete_campaign_says_so(tmp_path: Path) -> None:
    outputs, _ = make(tmp_path, [APERTURE] * 6, done=3)
    outputs.set_plan(outputs.images.values(), unusable=[{"path": "bad.fits"}])
    found = consolidate(outputs.config, outputs.plan, here)
    _, document = write(outputs, found, n_failed=2, n_quarantined=1)
    check_prov_json(document)
    run = document["activity"]["sg:run"]
    assert run["sg:complete"] is False
    assert "INCOMPLETE, 3 of 6 images are done (2 failed, 1 of them in quarantine; 1 not made yet)" in run["prov:label"]
    counts = {name: number(run[f"sg:n_{name}"]) for name in ("done", "failed", "quarantined", "remaining", "unusable")}
    assert counts == {"done": 3, "failed": 2, "quarantined": 1, "remaining": 1, "unusable": 1}


def test_a_library_of_others_reads_it(tmp_path: Path) -> None:
    model = pytest.importorskip("prov.model", reason="the prov package is not installed")
    outputs, found = make(tmp_path, [APERTURE, {"kind": "total", "origin": "given"}])
    text, document = write(outputs, found)
    read = model.ProvDocument.deserialize(io.StringIO(text), format="json")
    n_relations = sum(len(document[name]) for name in RELATIONS if name in document)
    things = sum(len(document[name]) for name in ("entity", "activity", "agent"))
    assert len(read.get_records()) == things + n_relations
    assert "calibrations" in read.get_provn()


def use(pixels: float | None, arcsec: float | None, kind: str = "aperture", origin: str = "x") -> Any:
    return calibration_use(
        {"kind": kind, "radius_pixels": pixels, "radius_arcsec": arcsec, "origin": origin}, "r", "cam"
    )


def test_a_radius_in_arcsec_is_one_aperture_whatever_the_pixel_scale() -> None:
    uses = tidy(use(2.0 / scale, 2.0) for scale in (0.1683, 0.16791, 0.2, 0.1701))
    assert [(u.unit, u.radius, u.n_images) for u in uses] == [("arcsec", 2.0, 4)]
    assert uses[0].pixels == (10.0, 2.0 / 0.16791)


def test_a_radius_in_pixels_is_one_aperture_where_the_scale_drifts() -> None:
    uses = tidy(use(12.0, 12 * scale) for scale in (0.16813, 0.16991, 0.17013))
    assert [(u.unit, u.radius, u.n_images) for u in uses] == [("pix", 12.0, 3)]
    assert not mixed_calibrations(uses)


def test_what_is_mixed() -> None:
    def mixed(*uses: Any) -> bool:
        return mixed_calibrations(tidy(uses))

    assert mixed(use(12.0, 2.016), use(12.0, 2.4, origin="y"))  # the same pixels of two cameras
    assert not mixed(use(12.0, 2.0161), use(10.08, 2.0159, origin="y"))  # the same on the sky
    assert mixed(use(12.0, 2.016), use(2.0 / 0.168, 2.0))  # 0.8 per cent apart
    assert mixed(use(12.0, 2.016), use(None, None, kind="psf_model"))
    assert not mixed(use(None, None, kind="total"), use(None, None, kind="total", origin="y"))
    assert not mixed()


def test_folding_does_not_depend_on_the_order() -> None:
    uses = [use(12.0, 2.016), use(10.0, 2.0), use(2 / 0.17, 2.0), use(10.0, 2.1), use(None, None, kind="total")]
    whole = tidy(uses)
    assert tidy(reversed(uses)) == whole
    assert tidy([*fold(uses[:2]), *fold(uses[2:])]) == tidy([*fold(uses[3:]), *fold(uses[:3])]) == whole


def test_names_of_files_are_no_part_of_an_origin(tmp_path: Path) -> None:
    """48 images whose names have letters and numbers in them: one reference, and not 48."""
    names = [f"{hashlib.sha256(bytes([i])).hexdigest()[:12]}.fits.fz" for i in range(48)]
    origins = [APERTURE | {"origin": f"CALAPRAD = 12.0 in {name}[{i % 4}]"} for i, name in enumerate(names)]
    outputs, found = make(tmp_path, origins)
    (one,) = found.calibrations
    assert (one.origin, one.n_images, one.files) == ("CALAPRAD", 48, tuple(sorted(names)[:3]))
    text, document = write(outputs, found)
    assert f"CALAPRAD, in files such as {min(names)}" in text
    assert len([name for name in document["entity"] if name.startswith("sg:calibration-")]) == 1
    assert all(min(names) in line or "CALAPRAD" not in line for line in found.lines())


@pytest.mark.parametrize(
    ("origin", "files", "field", "file"),
    [
        ("CALAPRAD = 12.0 in 3fa9c1.fits", [], "CALAPRAD", "3fa9c1.fits"),
        ("CALAPRAD = 12 in 3fa9c1.fits.fz[2]", [], "CALAPRAD", "3fa9c1.fits.fz"),
        ("CALAPDIA = 4.0 in a.fits[1], a diameter in arcsec: radius 2 arcsec", [],
         "CALAPDIA, a diameter in arcsec", "a.fits"),
        ("CALAPRAD in my night.fits", ["raw/my night.fits"], "CALAPRAD", "my night.fits"),
        ("CALAPRAD in noending", ["raw/noending"], "CALAPRAD", "noending"),
        ("X in a.fits", ["raw/xa.fits", "raw/a.fits"], "X", "a.fits"),
        ("X of a.fits[2], Y in a.fits", ["raw/a.fits"], "X of the file, Y", "a.fits"),
        ("X of a.fits[2], not ba.fits", ["raw/a.fits"], "X of the file, not ba.fits", "a.fits"),
        ("X in ba.fits-2", ["raw/a.fits"], "X in ba.fits-2", ""),
        ("slot_CalibFlux -> base_CircularApertureFlux_12_0 in SRC-849375-12.fits", [],
         "slot_CalibFlux -> base_CircularApertureFlux_12_0", "SRC-849375-12.fits"),
        ("slot_CalibFlux_instFlux = base_CircularApertureFlux_12_0_instFlux in src.parq", [],
         "slot_CalibFlux_instFlux = base_CircularApertureFlux_12_0_instFlux", "src.parq"),
        ("default of the Legacy Surveys (zeropoints from PSF fits, DR8 on)", ["a.fits"],
         "default of the Legacy Surveys (zeropoints from PSF fits, DR8 on)", ""),
        ("given", [], "given", ""),
        ("", ["a.fits"], "", ""),
    ],
)  # fmt: skip
def test_origin_and_file(origin: str, files: list[str], field: str, file: str) -> None:
    assert split_origin(origin, files) == (field, file)


def test_a_radius_of_its_own_for_every_image() -> None:
    """Apertures that go with the seeing are one entry with a span, whatever their number and the order they come in."""
    radii = [3 + 0.0537 * i for i in range(700)]
    uses = [use(r, 0.2 * r, origin=f"CALAPRAD = {r} in {i:x}.fits") for i, r in enumerate(radii)]
    (one,) = tidy(uses)
    assert (one.n_images, one.origin, one.unit, one.radius) == (700, "CALAPRAD", "", None)
    assert one.pixels == (3.0, radii[-1]) and str(one).startswith("aperture of radius 3 to 40.54 pix")
    assert mixed_calibrations([one])
    assert tidy(reversed(uses)) == (one,)
    assert tidy([*fold(uses[:100]), *fold(uses[100:450]), *fold(uses[450:])]) == (one,)
    few = tidy(uses[:100])
    assert len(few) == 100 and mixed_calibrations(few)


def test_the_same_pixels_of_two_cameras_from_the_same_place() -> None:
    cameras = [
        calibration_use({"kind": "aperture", "radius_pixels": 12.0, "radius_arcsec": 12 * scale}, "r", name)
        for name, scale in (("one", 0.168), ("two", 0.2))
    ]
    assert mixed_calibrations(tidy(cameras))
    assert not mixed_calibrations(tidy(cameras[:1] * 2))


def test_a_campaign_on_files_with_hexadecimal_names(make_campaign: Any, survey: Path) -> None:
    for path in list((survey / "raw").rglob("*.fits")):
        path.rename(path.with_name(f"{hashlib.sha256(path.read_bytes()).hexdigest()[:9]}.fits"))
    campaign = make_campaign()
    assert len(campaign.plan().checks.uses) == 1
    assert campaign.run(n_workers=0).ok
    document = json.loads(campaign.layout.provenance.read_text())
    (one,) = [v for k, v in document["entity"].items() if k.startswith("sg:calibration-")]
    assert (number(one["sg:n_images"]), one["sg:origin"]) == (4, "CALAPRAD")
    assert len(one["sg:example_files"]) == 3
