"""How far a campaign is, shown in the terminal, on the dashboard's page and to Prometheus."""
