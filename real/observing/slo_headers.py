"""The headers by which a client states bounds on a request's latencies, and what kind of request it is."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from traces.trace import Trace

SLO_HEADERS: Mapping[str, tuple[str, ...]] = {
    "ttft_slo_ms": ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"),
    "tpot_slo_ms": ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms"),
    "e2el_slo_ms": ("x-seqsched-slo-e2el-ms",),
}
"""Bounds, by column of a trace: llm-d's headers, by their new and their old names; it has none on E2EL."""
CLASS_HEADER = "x-seqsched-slo-class"
"""The class of a request, percent-encoded where it is no printable ASCII."""
DEADLINE_HEADER = "x-seqsched-deadline-s"
"""Seconds from its arrival within which a request has to begin."""
_PLAIN = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def stated(trace: Trace) -> list[dict[str, str]]:
    """The headers of each request of a trace, for those of its bounds and its class that it states."""
    headers: list[dict[str, str]] = [{} for _ in range(len(trace))]
    for column, bounds in trace.slos.items():
        for row in np.flatnonzero(~np.isnan(bounds)).tolist():
            headers[row][SLO_HEADERS[column][0]] = repr(float(bounds[row]))
    if trace.slo_class is not None:
        for row, name in enumerate(trace.slo_class.tolist()):
            if name:
                headers[row][CLASS_HEADER] = quote(name, safe=_PLAIN)
    return headers


def class_in(value: str) -> str:
    """The class that a header's value, read as latin-1, names; bytes that are no UTF-8 are replaced."""
    return unquote_to_bytes(value.encode("latin-1", "replace")).decode("utf-8", "replace").strip()
