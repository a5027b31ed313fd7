"""Clusters: ``metagen cluster`` and ``metagen doctor``."""
