"""The progress of a campaign, shown in the terminal, on the dashboard's page and to Prometheus."""
