"""Settings of how fakes are detected, measured and matched, and their defaults."""

from __future__ import annotations

from typing import Any

from skygraft.config.recovery import RecoverySettings

__all__ = ["RECOVERY_DEFAULTS", "RecoverySettings", "aperture_name"]

RECOVERY_DEFAULTS: dict[str, Any] = RecoverySettings().settings()
"""Every setting and its default, as JSON types."""


def aperture_name(radius: float) -> str:
    """Give the kind of flux in an aperture, as names of columns have it: ``ap_4_5`` for 4.5 pixels."""
    return f"ap_{radius:g}".replace(".", "_")
