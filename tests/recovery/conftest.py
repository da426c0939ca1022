"""The small campaigns of these tests."""

from kits.campaign_fixtures import kit, make_campaign, pristine, survey
from kits.finished_campaign import copied, finished_yaml

__all__ = ["copied", "finished_yaml", "kit", "make_campaign", "pristine", "survey"]
