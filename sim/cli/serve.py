"""`seqsched serve`: the thin layer before an inference API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from real.serving.settings import ServeSettings

from .options import flags

if TYPE_CHECKING:
    Serving = ServeSettings
else:
    Serving = flags(ServeSettings)

DEFAULT = Serving()


def serve(
    *,
    upstream: str,
    settings: Serving = DEFAULT,
) -> None:
    """Answer as an OpenAI-compatible server, in front of others: predict lengths, order, send.

    Runs until it is told to end (SIGTERM, SIGINT), then lets open requests finish. An upstream's own key is
    taken from SEQSCHED_UPSTREAM_KEY; without one, the clients' keys go on to it.

    Parameters
    ----------
    upstream
        The servers, such as http://localhost:8000, several with commas between; demo: a server of made-up
        answers in simulated step times, started here, to try the layer with.
    """
    from real.serving.serve import serve as run

    run(upstream, ServeSettings(**vars(settings)))
