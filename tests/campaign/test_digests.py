"""Fingerprints of many patches in few bytes, against a dict; and what a driver does not carry."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skygraft.tables.digests import Digests, pack, packed, unpacked

INT32 = st.integers(-(2**31), 2**31 - 1)
KEYS = st.tuples(INT32, INT32)


@given(KEYS)
def test_a_patch_as_a_number(key):
    assert unpacked(pack(key)) == key
    assert packed(*(np.array([v]) for v in key)).tolist() == [pack(key)]


@given(st.dictionaries(KEYS, st.sampled_from(["", "00" * 31 + "01", "ab" * 32, "ff" * 32]), max_size=20), st.randoms())
def test_as_a_dict_would(content, dice):
    digests = Digests()
    items = list(content.items())
    dice.shuffle(items)
    for key, digest in items:
        digests.add(key, digest)
    assert len(digests) == len(content)
    wanted = [*content, (5, 7), (-1, -1)]
    dice.shuffle(wanted)
    numbers = np.array([pack(key) for key in wanted], dtype=np.int64)
    assert digests.find(numbers) == [content.get(key, "") for key in wanted]
    assert digests.keys() == {pack(key) for key in content}
    assert digests.keys(only_with_digest=True) == {pack(key) for key, digest in content.items() if digest}
    sha = hashlib.sha256()
    for (tract, patch), digest in sorted(content.items()):
        sha.update(f"{tract} {patch} ".encode() + bytes.fromhex(digest))
    assert digests.fingerprint() == sha.hexdigest()


def test_what_is_no_digest():
    with pytest.raises(ValueError, match="32 bytes, not 2"):
        Digests().add((1, 2), "abcd")


def test_a_driver_carries_neither_what_draws_nor_what_it_does_not_use():
    """Each of these takes a second to import, or tens of MB; a driver starts at once and runs beside others."""
    code = (
        "import sys; from skygraft.campaign import Campaign; import skygraft.campaign.campaign, distributed;"
        "print(*sorted({'scipy', 'galsim', 'numba', 'pandas', 'xarray', 'matplotlib', 'bokeh'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
