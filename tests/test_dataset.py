"""Datasets of a Butler as plain data: their ids, and what Butler makes of them."""

from __future__ import annotations

import uuid

import pytest

from skygraft.dataset import Dataset, Lineage, made_by

ORIGIN = Dataset(
    id="01a22cd5-4747-7ab6-93fb-7bdeef088924",
    type="visit_image",
    storage_class="VisitImage",
    dimensions=("detector", "instrument", "visit"),
    data_id={"instrument": "LSSTCam", "visit": 3, "detector": 85, "band": "r"},
    run="drp",
)
GIVEN = {"type": "injected_visit_image", "run": "u/me", "tag": "mine", "key": "a"}


def test_ids_tell_what_was_made() -> None:
    one = ORIGIN.derive(**GIVEN)
    assert one == ORIGIN.derive(**GIVEN)
    others = [ORIGIN.derive(**GIVEN | {name: "x"}) for name in ("type", "run", "tag", "key")]
    assert len({one.id, ORIGIN.id, *(other.id for other in others)}) == 6
    assert uuid.UUID(one.id).version == 8
    assert uuid.UUID(one.id).variant == uuid.RFC_4122


def test_ids_tell_who_made_it() -> None:
    ids = [uuid.UUID(ORIGIN.derive(**GIVEN | {"key": str(i)}).id) for i in range(100)]
    assert all(made_by("mine", one) for one in ids)
    assert not any(made_by("yours", one) for one in [*ids, uuid.UUID(ORIGIN.id), uuid.uuid4()])


def test_as_butler_writes_it() -> None:
    butler = pytest.importorskip("lsst.daf.butler")
    one = ORIGIN.derive(**GIVEN)
    assert Dataset.from_json(one.to_json()) == one
    universe = butler.DimensionUniverse()
    ref = butler.DatasetRef.from_simple(butler.SerializedDatasetRef.model_validate(one.to_simple()), universe=universe)
    assert (str(ref.id), ref.run, ref.datasetType.name) == (one.id, "u/me", "injected_visit_image")
    assert dict(ref.dataId.required) == {"instrument": "LSSTCam", "visit": 3, "detector": 85}
    lineage = Lineage(one, (ORIGIN,))
    info = lineage.butler_info()
    provenance = butler.DatasetProvenance.model_validate(info["provenance"])
    wanted = provenance.to_flat_dict(ref, prefix="LSST BUTLER", sep=" ", simple_types=True)
    assert {key: card and card[0] for key, card in lineage.cards().items()} == wanted
    # Cards of another dataset go.
    before = ["SIMPLE", "LSST BUTLER INPUT 7 ID", "LSST BUTLER ID", "LSSTBUTLER"]
    cards = lineage.cards(before)
    assert cards["LSST BUTLER INPUT 7 ID"] is None
    assert cards["LSST BUTLER ID"] == (one.id, "")
    assert not {"SIMPLE", "LSSTBUTLER"} & cards.keys()
