"""Ray: the only package that imports it."""

import os

# Ray reads it when it is imported. It tells a driver of every worker that died, in a paragraph of possible causes; the
# pool says in one line what died and who does its work.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed while executing a task")
