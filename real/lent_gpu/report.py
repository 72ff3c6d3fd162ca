"""What came of a session so far, as a page for people; takes the state, measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .session import Outcome, Part, State


def markdown(state: State, parts: Sequence[Part]) -> str:
    """A row per part, then the figures of each that has any."""
    about = ", ".join(f"{key} {value}" for key, value in state.about.items())
    lines = [f"# {about}", "", "| part | status | seconds | |", "|---|---|---:|---|"]
    for part in parts:
        outcome = state.outcomes.get(part.name)
        if outcome is None:
            lines.append(f"| {part.name} | not yet | – | |")
        else:
            why = " ".join(outcome.why.split())[:300].replace("|", "\\|")
            lines.append(f"| {part.name} | {outcome.status} | {outcome.seconds:.1f} | {why} |")
    for part in parts:
        if (there := state.outcomes.get(part.name)) is not None and there.result:
            lines += ["", f"## {part.name}", "", *_figures(there)]
    return "\n".join(lines) + "\n"


def _figures(outcome: Outcome) -> Iterator[str]:
    for key, value in outcome.result.items():
        if key == "policies":
            yield from _policies(value)
        elif isinstance(value, Mapping):
            yield f"- {key}: " + ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
        else:
            yield f"- {key}: {_text(value)}"


def _policies(policies: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """A table: predicted, measured and error of each figure, by policy."""
    yield from ("", "| policy | figure | predicted | measured | error |", "|---|---|---:|---:|---:|")
    for policy, figures in policies.items():
        for key, judged in figures.items():
            error = judged["error_fraction"]
            text = "–" if error is None else f"{error:+.1%}"
            sides = " | ".join(_text(judged[side]) for side in ("predicted", "measured"))
            yield f"| {policy} | {key} | {sides} | {text} |"
    yield ""


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " / ".join(f"{_text(each)}" for each in value.values())
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
