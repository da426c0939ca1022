"""A small simulated survey, generated from a seed, to try skygraft in a minute."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skygraft.demo.report import print_report
    from skygraft.demo.run import DemoResult, run_demo
    from skygraft.demo.sky import SurveySpec
    from skygraft.demo.survey import MadeImage, make_survey

__all__ = ["DemoResult", "MadeImage", "SurveySpec", "make_survey", "print_report", "run_demo"]

_HOMES = {
    "DemoResult": "run",
    "MadeImage": "survey",
    "SurveySpec": "sky",
    "make_survey": "survey",
    "print_report": "report",
    "run_demo": "run",
}


def __getattr__(name: str) -> Any:
    # Imported lazily: the processes that draw the survey need neither Dask nor matplotlib.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"skygraft.demo.{_HOMES[name]}"), name)
