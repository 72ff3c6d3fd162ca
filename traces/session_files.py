"""Turns recorded sessions, whose requests wait for each other, into rows of our own columns.

Sessions of a coding agent (kv-cache-tester), agentic rows after Mooncake (Dynamo), and LLMServingSim's
sessions. Checks no values that the columns are checked for: whoever reads the rows does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .errors import InputError
from .token_blocks import Conversation, TokenHashes
from .unfolding import Row, Unfolded, number

SLACK_S = 1.0
"""By how much the times of a recorded session may disagree: they are whole seconds."""


class Ended(NamedTuple):
    """A request that a later one waits for: its id, when it came, and when it ended, if that is known."""

    id: str
    start_s: float
    end_s: float | None


def agent_sessions(path: str, objects: Sequence[Row]) -> Unfolded:
    """Sessions of kv-cache-tester: requests with times from their session's start, think times, sub-agents.

    Sub-agents run side by side from the end of the request before; the next request waits for all of them.
    Their own `t` is the time of their end. Raises InputError, naming the session, for what has no requests.
    """
    reader = _AgentSessions(path)
    for place, session in enumerate(objects):
        name = str(session.get("id", place))
        reader.session(f"{name}#{place}" if name in reader.seen else name, session)
    notes = ["answers are not found again: the sessions do not say what becomes of them"]
    if len(objects) > 1:
        notes.append(f"all {len(objects)} sessions start at once: --request-rate spreads their starts")
        if any(session.get("hash_id_scope") == "local" for session in objects):
            notes.append("hash_ids belong to their session, so that what sessions share is not known")
    if reader.num_guessed:
        notes.append(
            f"{reader.num_guessed} think times follow a request whose end was not recorded: at most the time "
            "since its start"
        )
    if reader.num_idle:
        notes.append(f"sub-agents without requests left out: {reader.num_idle}")
    if len(reader.models) > 1:
        notes.append(f"{len(reader.models)} models, all simulated as one")
    return Unfolded(reader.rows, "sessions of kv-cache-tester", tuple(notes))


class _AgentSessions:
    """Reads one session after the other."""

    def __init__(self, path: str) -> None:
        self.path, self.rows = path, list[Row]()
        self.num_guessed = self.num_idle = 0
        self.seen, self.models = set[str](), set[str]()
        self.hashes: dict[tuple[str, Any], int] = {}  # (session, id) -> an id that is its own

    def session(self, name: str, session: Row) -> None:
        """Add its requests."""
        self.seen.add(name)
        self.name, self.scope = name, name if session.get("hash_id_scope") == "local" else ""
        self.block_size = session.get("block_size", 64)
        if type(self.block_size) is not int or self.block_size < 1:
            what = f"block_size {self.block_size!r} is no whole number above 0"
            raise InputError(f"{self.path}, session {name}: {what}")
        if not self._requests(session.get("requests"), 0.0, (), name):
            raise InputError(f"{self.path}, session {name}: has no requests")

    def _requests(
        self, requests: object, start_s: float, before: tuple[Ended, ...], name: str
    ) -> tuple[Ended, ...]:
        """Add these, the first of which waits for those before; what a later request has to wait for."""
        agents: list[Ended] = []
        names = set[str]()  # an agent that is called again has the same id
        entries = requests if isinstance(requests, list) else ()
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise InputError(f"{self.path}, session {name}: request {place + 1} is no JSON object")
            at_s = number(entry.get("t"))
            if at_s is None:
                raise InputError(f"{self.path}, session {name}: request {place + 1} has no time t")
            if entry.get("type") == "subagent":
                seconds = (number(entry.get("duration_ms")) or 0.0) / 1e3
                began_s = start_s + max(0.0, at_s - seconds)
                agent = f"{name}/{entry.get('agent_id', place)}"
                agent = f"{agent}#{place}" if agent in names else agent
                names.add(agent)
                last = self._requests(entry.get("requests"), began_s, before, agent)
                self.num_idle += last == before
                agents += [
                    one._replace(end_s=start_s + at_s) if seconds else one
                    for one in (() if last == before else last)
                ]
                continue
            waits = tuple(agents) or before
            before, agents = (self._request(entry, start_s + at_s, waits, f"{name}/{place}"),), []
        return tuple(agents) or before

    def _request(self, entry: Row, at_s: float, waits: tuple[Ended, ...], id: str) -> Ended:
        at_s = max([at_s, *(one.start_s for one in waits)])
        if isinstance(entry.get("model"), str):
            self.models.add(entry["model"])
        ids = entry.get("hash_ids")
        blocks = ids if isinstance(ids, list) else []
        if wrong := [each for each in blocks if type(each) not in (int, str)]:
            what = f"{wrong[0]!r} in hash_ids is neither a whole number nor a text"
            raise InputError(f"{self.path}, session {self.name}: request {id}: {what}")
        self.rows.append(
            {
                "request_id": id,
                "session_id": self.name,
                "waits_for": [one.id for one in waits],
                "think_s": self._think_s(entry, at_s, waits),
                "arrival_s": at_s,
                "prompt_tokens": entry.get("in"),
                "output_tokens": entry.get("out"),
                "hash_ids": [self.hashes.setdefault((self.scope, each), len(self.hashes)) for each in blocks],
                "hash_tokens": [self.block_size] * len(blocks),
            }
        )
        seconds = number(entry.get("api_time"))
        return Ended(id, at_s, None if seconds is None else at_s + seconds)

    def _think_s(self, entry: Row, at_s: float, waits: tuple[Ended, ...]) -> float:
        """From the last end to the arrival: by the ends where they are known, else as it was recorded, from
        an end before, at most since the start of what has no recorded end.
        """
        if not waits:
            return 0.0
        ends = [one.end_s for one in waits]
        stated = number(entry.get("think_time"))
        if None not in ends:
            since_s = max(0.0, at_s - max(end for end in ends if end is not None))
            is_near = stated is not None and abs(stated - since_s) <= SLACK_S
            return float(stated) if is_near and stated is not None and stated >= 0 else since_s
        self.num_guessed += 1
        since_s = at_s - max(one.start_s for one in waits)
        return since_s if stated is None else max(0.0, min(float(stated), since_s))


def agentic_mooncake(path: str, objects: Sequence[Row]) -> Unfolded:
    """Rows of Dynamo's agentic form of Mooncake traces: `wait_for` names requests that must have ended; then
    `delay` and `tool_wait_ms` pass. Rows that wait for none start at `timestamp`. Times in milliseconds. Rows
    are of whole prompts; `prefix_reset` and `branches` move nothing, as in Dynamo's own replay.

    Raises InputError for a header, which later forms have.
    """
    rows = []
    for place, each in enumerate(objects):
        where = f"{path}, row {place + 1}"
        if "input_length" not in each:
            raise InputError(
                f"{where}: has no input_length: a header, or a later form that is not known here"
            )
        if not isinstance(each.get("wait_for", []), list):
            raise InputError(f"{where}, wait_for: {each['wait_for']!r} is not a list of request ids")
        waits = [number(each.get(name)) or 0.0 for name in ("delay", "tool_wait_ms")]
        at_ms = number(each.get("timestamp"))
        row = {
            "request_id": each.get("request_id"),
            "waits_for": each.get("wait_for", []),
            "think_s": sum(waits) / 1e3 if each.get("wait_for") else 0.0,
            "arrival_s": None if at_ms is None or each.get("wait_for") else at_ms / 1e3,
            "prompt_tokens": each.get("input_length"),
            "output_tokens": each.get("output_length"),
        }
        if all("hash_ids" in other for other in objects):
            row["hash_ids"] = each["hash_ids"]
        if all(other.get("session_id") is not None for other in objects):
            row["session_id"] = each["session_id"]
        rows.append(row)
    return Unfolded(rows, "agentic Mooncake", _reached_across(rows))


def _reached_across(rows: list[Row]) -> tuple[str, ...]:
    """Take the session ids out where a request waits for one of another session, as one that was started by
    another does: sessions are then what hangs together.
    """
    session = {str(row["request_id"]): row.get("session_id") for row in rows}
    across = [r for r in rows if any(session.get(str(one)) != r.get("session_id") for one in r["waits_for"])]
    if not across or "session_id" not in rows[0]:
        return ()
    for row in rows:
        del row["session_id"]
    return (f"{len(across)} requests wait for one of another session_id: sessions are what hangs together",)


def servingsim_sessions(path: str, objects: Sequence[Row]) -> Unfolded:
    """LLMServingSim's sessions: each request comes `tool_duration_ns` after the one before has ended.

    Requests without a session may stand among them. Prompts are compared by their token ids where all have
    them: what a turn's prompt repeats of the turn before, its answer included, is found again.
    """
    rows: list[Row] = []
    hashes = TokenHashes()
    for place, each in enumerate(objects):
        is_session = "sub_requests" in each
        turns = each["sub_requests"] if is_session else [each]
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns) or not turns:
            raise InputError(f"{path}, row {place + 1}, sub_requests: is not a list of requests")
        at_ns, name = number(each.get("arrival_time_ns")), str(each.get("session_id", place))
        talk = Conversation(hashes)
        for k, turn in enumerate(turns):
            wait_ns = number(turns[k - 1].get("tool_duration_ns")) if k else 0
            row = {
                "request_id": f"{place}/{k}",
                "session_id": f"{place}/{name}",
                "waits_for": [f"{place}/{k - 1}"] if k else [],
                "think_s": (wait_ns or 0) / 1e9,
                "arrival_s": None if at_ns is None or k else at_ns / 1e9,
                "prompt_tokens": turn.get("input_toks"),
                "output_tokens": turn.get("output_toks"),
            }
            rows.append(row | talk.turn(turn.get("input_tok_ids"), turn.get("output_tok_ids")))
    if not all("hash_ids" in row for row in rows):
        rows = [
            {k: v for k, v in row.items() if k not in ("hash_ids", "hash_tokens", "answer_id")}
            for row in rows
        ]
    return Unfolded(rows, "sessions of LLMServingSim")
