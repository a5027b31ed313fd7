"""The token of Ray's authentication: there before Ray starts, and for this user's eyes alone.

Ray makes a token of its own where it finds none, in a file that every user of the machine may read.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from metagen.errors import UserError

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def ensure_private() -> Path | None:
    """See that there is a token, and that only this user can read it, before Ray starts a cluster here.

    Ray itself turns authentication on for a cluster that it starts on this machine. Setting ``RAY_AUTH_MODE`` instead
    would come too late: Ray has read it when it was imported.

    Gives the token's file, which is made if there is none, and made private if others could read it. None where the
    environment holds the token itself (``RAY_AUTH_TOKEN``), or says how to authenticate (``RAY_AUTH_MODE``) in another
    way: that is the user's choice. Raises ``UserError`` if the file cannot be made private.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return None
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        if stat.S_IMODE(path.stat().st_mode) & OTHERS:
            path.chmod(0o600)
    except OSError as error:
        raise UserError(
            f"{path}: Ray's token cannot be kept private ({error.strerror}): set RAY_AUTH_TOKEN_PATH to a file of yours"
        ) from None
    return path


def _create(path: Path) -> None:
    """Write a new token: whole from the first moment it is there, and never over another process's."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".auth_token-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(partial, path)
    except FileExistsError:  # another process was faster: its token counts
        return
    finally:
        os.unlink(partial)
