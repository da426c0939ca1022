"""The report of a campaign: one HTML file with its figures, numbers and provenance."""
