"""Starts a server in a process of its own and ends it; knows how llama.cpp and vLLM are started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from tests.servers import random_llama

HERE = Path(__file__).parent
START_S = 900.0
CONTEXT = 512
SLOTS = 8


class Server(NamedTuple):
    """How a server is started, and the policy under which the simulator batches as it does."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    policy: str


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def llama_cpp(python: Path, port: int, slots: int = SLOTS) -> Server:
    """llama.cpp on one thread: two spin against each other on a busy machine.

    It fills an iteration with a token of each slot that decodes and then with prompts, up to 2,048 tokens
    (its default), and decides an iteration when the one before is over.
    """
    command = [str(python), str(HERE / "llama_cpp.py"), *map(str, (port, slots, CONTEXT, 1))]
    policy = f"continuous:max_num_seqs={slots},max_num_batched_tokens=2048,async_scheduling=off"
    return Server("llama.cpp", command, {}, policy)


def vllm(
    python: Path,
    port: int,
    folder: Path,
    *,
    name: str = "random-135m",
    slots: int = SLOTS,
    **more: str | bool,
) -> Server:
    """A vLLM server on one thread of the processor, with the model in `folder`, into which a random one is
    written where there is none. `more`: other options of the server, True for those without a value.

    On a processor vLLM decides an iteration when the one before is over (vllm/platforms/cpu.py).
    """
    if not (folder / "config.json").exists():
        random_llama.write(folder)
    options = {
        "port": port,
        "host": "127.0.0.1",
        "served-model-name": name,
        "max-model-len": CONTEXT,
        "max-num-seqs": slots,
        "max-num-batched-tokens": 2048,
        "dtype": "bfloat16",
        **{key.replace("_", "-"): value for key, value in more.items()},
    }
    flags = [
        word
        for key, value in options.items()
        for word in ([f"--{key}"] if value is True else [f"--{key}", str(value)])
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    policy = f"continuous:max_num_seqs={slots},max_num_batched_tokens=2048,async_scheduling=off"
    if options.get("distributed-executor-backend") == "uni":
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else vLLM goes back to a worker process
    # The command `vllm` asks for a version that the package for processors does not have under that name.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *flags]
    return Server("vLLM", command, environment, policy)


@contextmanager
def running(server: Server, url: str, log: Path) -> Iterator[int]:
    """Inside the block the server answers at `url`, what it says is in `log`; its process is given.
    RuntimeError where it fails.
    """
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            server.command,
            env={**os.environ, **server.environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            begin = time.monotonic()
            while not answers(f"{url}/v1/models"):
                if process.poll() is not None or time.monotonic() - begin > START_S:
                    tail = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
                    raise RuntimeError(f"{server.name} does not start: {tail}")
                time.sleep(0.5)
            yield process.pid
        finally:
            try:
                process.terminate()
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            finally:  # also where a second interrupt came; vLLM's engine outlives a server that was killed
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM are KeyboardInterrupt, also where whoever started this process had
    it ignore SIGINT, as a shell does with `&`.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def answers(url: str) -> bool:
    """Whether there is an answer at this address."""
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
