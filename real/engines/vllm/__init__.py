"""vLLM in this process, which schedules by itself. Imported only where it is asked for; other modules need no
vLLM.

Uses more of it than is public, so that its version is pinned (`make vllm`).
"""

from __future__ import annotations

from importlib.util import find_spec

from traces.errors import InputError

NAME = "vllm"


def require() -> None:
    """InputError where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise InputError(
            f"engine {NAME}: vLLM is not installed here; `make vllm` sets it up for processors, to be used "
            f"as .venv-vllm/bin/python real/validate.py --engine {NAME}; on a GPU, pip install vllm"
        )
