"""What the layer says of failures of its own, in a line; never a request's words."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


def complain(what: str, error: Exception) -> None:
    """Say on stderr what failed, by which error and where; not its text, which may hold a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    print(f"seqsched: {what}: {type(error).__name__}{where}", file=sys.stderr, flush=True)
