"""Quality assurance: compare measured with injected magnitudes (closure), and draw pictures."""

from skygraft.qa.closure import ClosureSummary, measure_closure, summarize_closure

__all__ = ["ClosureSummary", "measure_closure", "summarize_closure"]
