"""The configuration: models of a campaign's YAML and of the settings of clusters, and reports of errors in them."""
