"""What a worker needs for one image, measured in a process of its own; and what a driver holds of all images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kits.plan_kit import make_images, write_plan
from skygraft.records.image_states import ImageRows, ImageStates
from skygraft.records.plan_file import Plan


@pytest.mark.slow
def test_reading_injecting_and_writing_stays_below_four_times_the_planes():
    script = Path(__file__).with_name("bench_calexp.py")
    done = subprocess.run(
        [sys.executable, str(script), "--repeats", "1", "--stars", "1000", "--galaxies", "0", "--compressions", "none"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        # What an allocator is told to keep would be resident before.
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
    )
    measured = {name: float(value) for _, name, value in (line.split() for line in done.stdout.splitlines())}
    assert 1.0 < measured["peak_over_planes"] < 4.0


def test_a_driver_holds_less_than_100_bytes_of_an_image(tmp_path: Path):
    """A driver may take 1 GB at ten million images; it also has a second copy of the states while it saves them."""
    write_plan(tmp_path / "plan.parquet", make_images(500), {})
    states, rows = ImageStates(500), ImageRows(Plan(tmp_path / "plan.parquet"))
    arrays = [v for held in (states, states.copy(), rows) for v in vars(held).values() if isinstance(v, np.ndarray)]
    assert len(arrays) == 10
    assert 500 <= sum(array.nbytes for array in arrays) <= 100 * 500
