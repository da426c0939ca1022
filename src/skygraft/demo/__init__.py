"""A small survey from nothing but a seed, so that everything can be tried in a minute."""

from skygraft.demo.report import print_report
from skygraft.demo.run import DemoResult, run_demo
from skygraft.demo.sky import SurveySpec
from skygraft.demo.survey import MadeImage, make_survey

__all__ = ["DemoResult", "MadeImage", "SurveySpec", "make_survey", "print_report", "run_demo"]
