"""The flag registry: bits, documentation, decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from skygraft.catalog.flags import FLAG_DOCS, NOT_DRAWN, Flag, count_flags, decode_flags, flag_registry, has_flag

# The bits of LSST source_injection's INJECTED flags, SCIENCE.md section 7.
LSST = {
    "MAG_BAD": 0,
    "TYPE_UNKNOWN": 1,
    "SERSIC_EXTREME": 2,
    "NO_OVERLAP": 3,
    "FFT_SIZE_ERROR": 4,
    "PSF_COMPUTE_ERROR": 5,
}


def test_lsst_bits_are_kept_and_ours_start_at_eight():
    for name, bit in LSST.items():
        assert Flag[name].value == 1 << bit
    ours = [flag.value.bit_length() - 1 for flag in Flag if flag.name not in LSST]
    assert min(ours) == 8
    assert len(set(ours)) == len(ours)


def test_every_flag_is_documented_once_and_is_one_bit():
    assert set(FLAG_DOCS) == set(Flag)
    assert all(bin(flag.value).count("1") == 1 for flag in Flag)
    table = flag_registry()
    assert len(table) == len(Flag)
    assert (2 ** np.asarray(table["bit"]) == np.asarray(table["value"])).all()
    for flag, doc in FLAG_DOCS.items():
        assert doc.endswith("not drawn") == bool(flag & NOT_DRAWN), flag


def test_the_page_on_outputs_has_the_registry():
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text()
    for row in flag_registry():
        assert f"| {row['bit']} | `{row['name']}` | {row['meaning']} |" in text


def test_decode_names_unknown_bits_too():
    assert decode_flags(0) == []
    assert decode_flags(Flag.MAG_BAD | Flag.STAMP_TRUNCATED) == ["MAG_BAD", "STAMP_TRUNCATED"]
    assert decode_flags(np.int64((1 << 6) | (1 << 2))) == ["SERSIC_EXTREME", "BIT_6"]


def test_counts_and_selection():
    flags = np.array([0, 1, 3, 1 << 10], dtype=np.int64)
    assert count_flags(flags) == {"MAG_BAD": 2, "TYPE_UNKNOWN": 1, "STAMP_TRUNCATED": 1}
    assert has_flag(flags, Flag.MAG_BAD | Flag.STAMP_TRUNCATED).tolist() == [False, True, True, True]
    flags |= Flag.NO_OVERLAP
    assert flags.dtype == np.int64
    assert has_flag(flags, Flag.NO_OVERLAP).all()
