"""`--server` and `--gpu`: from what a server is started with to a policy and settings of ours."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from traces.errors import InputError

from ..scenario.settings import Keywords, MachineSettings, PlanKeywords
from .options import ByDefault, keywords
from .told import LOGGER

if TYPE_CHECKING:
    from ..servers.server import Server


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServerFlags:
    """What serves, as its users start it."""

    server: str | None = None
    """Take policy, profile and limits from a server's command, such as "vllm serve MODEL --max-num-seqs 256",
    or from its YAML or JSON file (vLLM, SGLang, TensorRT-LLM); what is given beside it wins.
    """
    gpu: str | None = None
    """The GPU that --server runs on, such as h200: its defaults and the profile follow from it."""


NO_SERVER = ServerFlags()


def read_server(given: ServerFlags) -> Server | None:
    """The server, if one was given; what of it has no effect here is said.

    InputError for what is no server, and for a GPU without one.
    """
    if given.server is None:
        if given.gpu is not None:
            raise InputError(f"gpu: {given.gpu!r} needs --server")
        return None
    from ..servers.server import server

    found = server(given.server, gpu=given.gpu)
    for note in found.notes:
        logging.getLogger(LOGGER).info("server: %s", note)
    return found


def with_server(server: Server | None, given: MachineSettings) -> Keywords:
    """Keyword arguments for `simulate` and its like: what the flags leave open is as the server has it.

    InputError where neither says on which profile it runs.
    """
    settings = keywords(given)
    if server is None:
        return settings
    if settings.get("fleet") is None and isinstance(settings["profile"], ByDefault):
        settings["profile"] = profile_of(server)
    with_memory(server, settings)
    if isinstance(settings["replicas"], ByDefault) and settings.get("fleet") is None:
        settings["replicas"] = server.replicas
    return settings


def with_memory(server: Server, settings: PlanKeywords) -> None:
    """Blocks of KV memory and their size, where no flag says them, as the server has them."""
    size = settings["block_size"]
    if size is None:
        size = settings["block_size"] = server.block_size
    if settings["kv_blocks"] is None and (blocks := server.kv_blocks) is not None:
        counts_tokens = server.engine != "vllm"
        settings["kv_blocks"] = blocks * server.block_size // max(1, size) if counts_tokens else blocks


def profile_of(server: Server) -> str:
    """The profile of a server; InputError where there is none."""
    if server.profile is None:
        if server.without_tables:
            raise InputError(
                f"server: there are no measured kernels of {server.without_tables}: --profile is needed, "
                "which says what an iteration takes"
            )
        missing = "a model" if server.model is None else "--gpu GPU, one with tables of kernels"
        raise InputError(f"server: {missing} or --profile is needed: it does not say what an iteration takes")
    return server.profile
