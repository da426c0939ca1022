"""Did it work: closure of what was injected against what is measured, and pictures."""

from skygraft.qa.closure import ClosureSummary, measure_closure, summarize_closure

__all__ = ["ClosureSummary", "measure_closure", "summarize_closure"]
