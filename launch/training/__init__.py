"""Training: ``metagen train``, ``resume``, ``top`` and ``replay``, and what a run writes."""
