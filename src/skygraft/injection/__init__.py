"""Injection of sources into one exposure."""

from skygraft.injection.core import Injection, inject
from skygraft.injection.options import InjectionOptions

__all__ = ["Injection", "InjectionOptions", "inject"]
