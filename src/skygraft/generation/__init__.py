"""Make catalogues of fakes: positions, populations, hosts and groups, stellar systems, footprints."""
