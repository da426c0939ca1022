"""The YAML of a campaign: its models, the settings of clusters, and how errors in it are reported."""
