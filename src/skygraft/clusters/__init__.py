"""Clusters of workers on this machine, in batch systems, Kubernetes or under MPI: opened, watched and checked."""
