"""The profiles that come with the package and are composed from measured kernels.

    python -m sim.hardware.shipped

makes them anew (with the extra `kernels`).
"""

from __future__ import annotations

import sys

from sim.hardware.catalogue import SHIPPED
from sim.hardware.composed import compose
from traces.errors import InputError

DEPLOYMENTS = {
    "h100-llama-3.1-8b-vllm": "llama-3.1-8b@h100,engine=vllm",
    "h100-llama-3.1-8b-fp8-vllm": "llama-3.1-8b@h100,engine=vllm,dtype=fp8,kv=fp8",
    "h200-llama-3.1-8b-vllm": "llama-3.1-8b@h200,engine=vllm",
    "h200-llama-3.1-8b-fp8-vllm": "llama-3.1-8b@h200,engine=vllm,dtype=fp8,kv=fp8",
    "h100-llama-3.1-70b-tp8-vllm": "llama-3.1-70b@h100,engine=vllm,tp=8",
    "h100-llama-3.1-70b-fp8-tp4-vllm": "llama-3.1-70b@h100,engine=vllm,tp=4,dtype=fp8,kv=fp8",
    "h200-llama-3.1-70b-tp4-vllm": "llama-3.1-70b@h200,engine=vllm,tp=4",
    "h200-llama-3.1-70b-fp8-tp2-vllm": "llama-3.1-70b@h200,engine=vllm,tp=2,dtype=fp8,kv=fp8",
    "h100-qwen3-32b-tp2-vllm": "Qwen/Qwen3-32B@h100,engine=vllm,tp=2",
    "h200-qwen3-30b-a3b-vllm": "Qwen/Qwen3-30B-A3B@h200,engine=vllm",
    "a100-80gb-vicuna-7b-sglang": "vicuna-7b@a100-80gb,engine=sglang",
    "a100-80gb-vicuna-7b-trtllm": "vicuna-7b@a100-80gb,engine=trtllm",
    "h100-vicuna-7b-sglang": "vicuna-7b@h100,engine=sglang",
    "h100-vicuna-7b-trtllm": "vicuna-7b@h100,engine=trtllm",
    "h200-vicuna-7b": "vicuna-7b@h200,engine=sglang",
    "h200-vicuna-7b-trtllm": "vicuna-7b@h200,engine=trtllm",
}
"""Name → what is composed: each as people run it, on GPUs of one node."""


def main() -> int:
    """Write them all; returns the exit status, 2 without the extra."""
    try:
        for name, text in DEPLOYMENTS.items():
            compose(text, name=name).save(SHIPPED / f"{name}.json")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
