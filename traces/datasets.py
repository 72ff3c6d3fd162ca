"""Fetches the public traces by name, pinned to a commit and a SHA-256; knows nothing of their contents."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError

CACHE_VARIABLE = "SEQSCHED_DATA"


@dataclass(frozen=True)
class Dataset:
    """One public file: its place, its hash, its licence, and its name in the cache."""

    name: str
    repository: str
    commit: str
    path: str
    sha256: str
    licence: str
    file: str

    @property
    def url(self) -> str:
        """The raw file at the pinned commit."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.path}"


_PAPER = ("zhengzangw/Sequence-Scheduling", "3992f34113d1b0649e057d4608876ccfa78e8333")
_AZURE = ("Azure/AzurePublicDataset", "b469a113cedca53ddc3bdea71a143dc4b7d8700c")
_MOONCAKE = ("kvcache-ai/Mooncake", "3b5a594133958449a1feaf1c9e0fc1b553e34a28")
_MOONCAKE_FOLDER = "FAST25-release/traces"

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "alpaca-vicuna-val",
            *_PAPER,
            path="data/alpaca-val-10k-length.json",
            sha256="3db0410a0b9cfaf967965b8bd9c25f530dc8c035e81d2117a0f27c64633ed99a",
            licence="none stated",
            file="alpaca-val-10k-length.json",
        ),
        Dataset(
            "alpaca-vicuna-train",
            *_PAPER,
            path="data/alpaca-train-10k-length.json",
            sha256="1821a253de3a463eabad275f413816c0c102ed4cd0e14f4f8e662f508045efb0",
            licence="none stated",
            file="alpaca-train-10k-length.json",
        ),
        Dataset(
            "azure-conv-2023",
            *_AZURE,
            path="data/AzureLLMInferenceTrace_conv.csv",
            sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
            licence="CC-BY-4.0",
            file="AzureLLMInferenceTrace_conv.csv",
        ),
        Dataset(
            "azure-code-2023",
            *_AZURE,
            path="data/AzureLLMInferenceTrace_code.csv",
            sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
            licence="CC-BY-4.0",
            file="AzureLLMInferenceTrace_code.csv",
        ),
        Dataset(
            "mooncake-conversation",
            *_MOONCAKE,
            path=f"{_MOONCAKE_FOLDER}/conversation_trace.jsonl",
            sha256="b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
            licence="Apache-2.0",
            file="mooncake-conversation_trace.jsonl",
        ),
        Dataset(
            "mooncake-synthetic",
            *_MOONCAKE,
            path=f"{_MOONCAKE_FOLDER}/synthetic_trace.jsonl",
            sha256="bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131",
            licence="Apache-2.0",
            file="mooncake-synthetic_trace.jsonl",
        ),
    )
}


def names() -> tuple[str, ...]:
    """The names that `fetch` knows."""
    return tuple(DATASETS)


def cache_folder() -> Path:
    """Where files are kept: the folder that SEQSCHED_DATA names, else the user's cache folder.

    InputError for a user without a home, as in a container that runs under a number.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    import platformdirs

    try:
        return Path(platformdirs.user_cache_dir("seqsched"))
    except RuntimeError as error:
        raise InputError(f"cache folder: {error}, or {CACHE_VARIABLE}") from None


def fetch(name: str) -> Path:
    """The path of a public file, downloaded where the cache folder lacks it, its SHA-256 verified either way.

    Raises InputError for an unknown name, for a file whose hash is not the pinned one (a file found in the
    folder is left as it is), and, naming the URL, where the download fails.
    """
    if name not in DATASETS:
        raise InputError(f"dataset {name!r} is not one of {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    path = cache_folder() / dataset.file
    if not path.exists():
        _download(dataset, path)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if digest != dataset.sha256:
        raise InputError(
            f"{path}: SHA-256 is {digest}, expected {dataset.sha256}; remove the file to fetch it again"
        )
    return path


def _download(dataset: Dataset, path: Path) -> None:
    import pooch

    # The caller reports a failure in one line; pooch would log more.
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            dataset.url,
            known_hash=f"sha256:{dataset.sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(timeout=30),
        )
    except OSError as error:  # the errors of requests are OSErrors too
        raise InputError(
            f"{dataset.name}: cannot be downloaded from {dataset.url} to {path} ({type(error).__name__}); "
            f"a copy in the folder that {CACHE_VARIABLE} names is used without a download"
        ) from error
    except ValueError as error:
        raise InputError(f"{dataset.name}: {dataset.url} does not have SHA-256 {dataset.sha256}") from error
