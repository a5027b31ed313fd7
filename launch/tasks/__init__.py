"""Image sets: ``metagen tasks``."""
