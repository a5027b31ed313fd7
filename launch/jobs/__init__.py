"""Runs on a cluster: ``metagen submit``, ``jobs``, ``fetch`` and ``tensorboard``."""
