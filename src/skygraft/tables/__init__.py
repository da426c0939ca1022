"""Tables of a campaign's results: truth, sources, failures, calibrations and provenance."""
