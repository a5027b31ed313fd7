"""The ``metagen`` command: the only package that imports click."""
