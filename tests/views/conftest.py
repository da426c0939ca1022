"""The small campaigns of these tests."""

from kits.campaign_fixtures import expected, kit, make_campaign, pristine, survey

__all__ = ["expected", "kit", "make_campaign", "pristine", "survey"]
