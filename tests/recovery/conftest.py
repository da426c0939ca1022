"""The small campaigns of these tests."""

from kits.campaign_fixtures import kit, make_campaign, pristine, survey

__all__ = ["kit", "make_campaign", "pristine", "survey"]
