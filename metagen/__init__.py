"""metagen: meta-train image generators. A pure PyTorch library; it imports neither ray nor click."""

__version__ = "0.1.0"
