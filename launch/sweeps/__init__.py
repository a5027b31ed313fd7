"""Sweeps: ``metagen sweep`` and what it writes."""
