"""Small traces and files for the tests of `traces`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from traces.trace import Trace


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes text or bytes to a file in a fresh folder and returns its path."""

    def write(content: str | bytes, name: str = "trace.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def small() -> Trace:
    """Four requests with every column."""
    return Trace(
        name="small",
        request_id=np.array([7, 3, 5, 4]),
        arrival_s=np.array([0.0, 0.1, 0.1 + 0.2, 4.0]),
        prompt_tokens=np.array([10, 20, 30, 40]),
        output_tokens=np.array([5, 512, 7, 100]),
        predicted_tokens=np.array([0, 500, 50, 100]),
        priority=np.array([0, -1, 2, 0]),
        prompt=np.array(["a", 'say "hi", please', "two\nlines", ""], dtype=object),
        user=np.array(["u", "v", "u", "ü"], dtype=object),
        deadline_s=np.array([1.0, 2.5, 3.0, 9.0]),
        samples=np.array([[5, 6], [512, 100], [7, 9], [100, 90]]),
        sample_names=("t0.0", "t0.7"),
        max_new_tokens=512,
    )


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public traces that SEQSCHED_DATA names."""
    folder = os.environ.get("SEQSCHED_DATA")
    if not folder:
        pytest.skip("SEQSCHED_DATA names no folder with the public traces")
    return Path(folder)
