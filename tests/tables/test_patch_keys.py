"""Patches as numbers, and one fingerprint of many; and what a driver does not carry."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skygraft.tables.patch_keys import fingerprint, packed, unpacked

INT32 = st.integers(-(2**31), 2**31 - 1)
KEYS = st.tuples(INT32, INT32)


@given(st.lists(KEYS, max_size=20))
def test_patches_as_numbers(keys):
    numbers = packed(*np.array(keys, dtype=np.int64).reshape(-1, 2).T)
    assert unpacked(numbers) == keys


@given(st.dictionaries(KEYS, st.sampled_from(["", "00" * 31 + "01", "ab" * 32, "ff" * 32]), max_size=20), st.randoms())
def test_the_fingerprint_does_not_depend_on_the_order(content, dice):
    items = list(content.items())
    dice.shuffle(items)
    sha = hashlib.sha256()
    for (tract, patch), digest in sorted(content.items()):
        sha.update(f"{tract} {patch} ".encode() + bytes.fromhex(digest))
    assert fingerprint(dict(items)) == sha.hexdigest()


def test_a_driver_carries_neither_what_draws_nor_what_it_does_not_use():
    """Each of these takes a second to import, or tens of MB; a driver starts at once and runs beside others."""
    code = (
        "import sys; from skygraft.campaign import Campaign; import skygraft.campaign.campaign, distributed;"
        "print(*sorted({'scipy', 'galsim', 'numba', 'pandas', 'xarray', 'matplotlib', 'bokeh'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
