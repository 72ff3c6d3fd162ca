"""uvicorn's HTTP/1.1 connections, within bounds of time that it does not set itself.

Knows nothing of requests: who sends the head of one byte by byte, or does not read an answer, is hung up on.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 30.0
"""Seconds in which a connection must have sent the head of a request, from its beginning or the last answer
on.
"""
STALL_S = 60.0
"""Seconds for which a client may take nothing of what is written to it."""


class BoundedProtocol(H11Protocol):
    """One connection of a client."""

    head: asyncio.TimerHandle | None = None
    stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A head is due."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """It may have been the rest of a head."""
        super().data_received(data)
        self._expect_head()

    def on_response_complete(self) -> None:
        """The next head is due."""
        super().on_response_complete()
        self._expect_head()

    def pause_writing(self) -> None:
        """The client takes less than it gets."""
        super().pause_writing()
        if self.stall is None:
            self.stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It takes more."""
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        super().connection_lost(exc)
        self._forget_stall()
        self._forget_head()

    def _expect_head(self) -> None:
        """Wait for one where no request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_head()
        elif self.head is None and not self.transport.is_closing():
            self.head = self.loop.call_later(HEAD_S, self.transport.abort)

    def _forget_head(self) -> None:
        if self.head is not None:
            self.head.cancel()
            self.head = None

    def _forget_stall(self) -> None:
        if self.stall is not None:
            self.stall.cancel()
            self.stall = None
