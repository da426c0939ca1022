"""The small campaigns of these tests."""

from kits.campaign_fixtures import expected, finished, finished_folder, kit, make_campaign, pristine, survey

__all__ = ["expected", "finished", "finished_folder", "kit", "make_campaign", "pristine", "survey"]
