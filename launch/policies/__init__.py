"""Optimisation policies: ``metagen policy``."""
