"""Reference implementations are imported with their own warnings let be."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchmetrics.image.fid
    import torchmetrics.image.kid  # noqa: F401
