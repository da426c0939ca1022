"""What the server of forked processes does before it forks any: import and load what they would all need."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path

from kits.tiny_campaign import write_tiny_campaign
from skygraft.campaign import Campaign

for _name in (
    "dask.__main__",
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "skygraft.campaign.sweep",
    "skygraft.cli",
    "skygraft.execution.driver",
    "skygraft.qa.verify",
    "skygraft.recovery.recover",
):
    importlib.import_module(_name)

_first, _, _others = os.environ.get("PYTHONPATH", "").partition(os.pathsep)
if _first == str(Path(__file__).parents[1]):
    # It was set to find this file, for this process alone.
    del os.environ["PYTHONPATH"]
    if _others:
        os.environ["PYTHONPATH"] = _others

with tempfile.TemporaryDirectory() as _folder:
    # Compiled functions are loaded at their first call.
    assert Campaign.from_yaml(write_tiny_campaign(Path(_folder), 1)).run(n_workers=0).ok
