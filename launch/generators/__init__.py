"""What is done with a network or a checkpoint: ``metagen describe``, ``evaluate``, ``adapt`` and ``sample``."""
