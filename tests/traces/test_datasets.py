"""The table of public files and the cache: verified, never silently replaced."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
import requests

from traces import InputError, datasets

NAME = "azure-conv-2023"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEQSCHED_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Content that stands for the data set: its pinned hash is changed to match."""
    content = b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n"
    changed = replace(datasets.DATASETS[NAME], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(datasets.DATASETS, NAME, changed)
    return content


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(pooch, "retrieve", fail)


def test_every_entry_is_pinned() -> None:
    assert len(datasets.names()) == 6
    for name, dataset in datasets.DATASETS.items():
        assert dataset.name == name
        assert re.fullmatch("[0-9a-f]{40}", dataset.commit)
        assert re.fullmatch("[0-9a-f]{64}", dataset.sha256)
        assert dataset.licence
        assert dataset.url == (
            f"https://raw.githubusercontent.com/{dataset.repository}/{dataset.commit}/{dataset.path}"
        )
    files = [dataset.file for dataset in datasets.DATASETS.values()]
    assert len(set(files)) == len(files)


def test_a_file_in_the_folder_is_used_without_a_download(
    cache: Path, known: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_network(monkeypatch)
    path = cache / "AzureLLMInferenceTrace_conv.csv"
    path.write_bytes(known)
    assert datasets.fetch(NAME) == path


def test_a_file_with_another_hash_is_refused_and_kept(
    cache: Path, known: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_network(monkeypatch)
    path = cache / "AzureLLMInferenceTrace_conv.csv"
    path.write_bytes(b"other")
    with pytest.raises(InputError) as caught:
        datasets.fetch(NAME)
    found, expected = (hashlib.sha256(content).hexdigest() for content in (b"other", known))
    assert str(caught.value).startswith(f"{path}: SHA-256 is {found}, expected {expected}")
    assert path.read_bytes() == b"other"


@pytest.mark.parametrize("error", [requests.exceptions.ConnectionError("x\ny"), OSError(28, "full")])
def test_no_network_is_one_line_with_the_address(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(requests, "get", fail)
    monkeypatch.setattr(requests.Session, "get", fail)
    with pytest.raises(InputError) as caught:
        datasets.fetch(NAME)
    assert datasets.DATASETS[NAME].url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [path for path in cache.iterdir() if path.is_file()]


def test_a_download_is_verified_and_kept(cache: Path, known: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Downloader:
        def __init__(self, **options: object) -> None:
            pass

        def __call__(self, url: str, output: str, pooch: object) -> None:
            Path(output).write_bytes(known if good else b"tampered")

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    good = False
    with pytest.raises(InputError, match="does not have SHA-256"):
        datasets.fetch(NAME)
    assert not list(cache.iterdir())
    good = True
    assert datasets.fetch(NAME).read_bytes() == known
    forbid_network(monkeypatch)
    assert datasets.fetch(NAME).parent == cache


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        InputError, match=r"dataset 'azure' is not one of alpaca-vicuna-val, .*mooncake-synthetic"
    ):
        datasets.fetch("azure")


def test_the_cache_folder_is_the_users_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SEQSCHED_DATA", raising=False)
    assert datasets.cache_folder() == Path(pooch.os_cache("seqsched"))
    monkeypatch.setenv("SEQSCHED_DATA", "elsewhere")
    assert datasets.cache_folder() == Path("elsewhere")


@pytest.mark.parametrize("name", datasets.names())
def test_real_files_match_their_pinned_hash(data: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_network(monkeypatch)
    if not (data / datasets.DATASETS[name].file).exists():
        pytest.skip(f"{name} is not in the folder that SEQSCHED_DATA names")
    assert datasets.fetch(name) == data / datasets.DATASETS[name].file
