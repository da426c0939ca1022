"""The small campaign of these tests."""

from kits.views_kit import campaign, copied, made

__all__ = ["campaign", "copied", "made"]
