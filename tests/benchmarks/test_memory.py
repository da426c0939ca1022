"""What a worker needs for one image, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_reading_injecting_and_writing_stays_below_four_times_the_planes():
    script = Path(__file__).with_name("bench_calexp.py")
    done = subprocess.run(
        [sys.executable, str(script), "--repeats", "1", "--stars", "1000", "--galaxies", "0", "--compressions", "none"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    measured = {name: float(value) for _, name, value in (line.split() for line in done.stdout.splitlines())}
    assert 1.0 < measured["peak_over_planes"] < 4.0
