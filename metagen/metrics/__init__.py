"""How good generated images are: one metric a file. Images are ``[N, C, H, W]`` in [-1, 1]."""
