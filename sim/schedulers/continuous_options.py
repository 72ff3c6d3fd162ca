"""What can be chosen of continuous batching; decides nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from .base import Need
from .order import BY_DEADLINE, BY_MEMORY, NEEDS, PREEMPTING, Order
from .quantile_option import quantile_of
from .retention import WaitOption

RULE_OPTIONS = {
    "vllm": ("admission", "margin", "preempt_until", "starve_after", "quantum", "ask_every"),
    "sglang": ("chunked_prefill_size", "max_prefill_tokens", "schedule_conservativeness", "mixed_chunk"),
    "trtllm": ("capacity_scheduler_policy", "batch_wait_timeout_iters", "batch_wait_max_tokens_ratio"),
}
"""Options that belong to some rules only."""

ADMISSIONS = ("chunk", "prompt", "predicted")

STARVES = {"ltr": 1000, "mlfq": 1000, "memory-time": 3000}
"""Orders under which a request that starves goes first, unless said otherwise, and iterations after which it
does: under memory-time later, as 1000 takes most of what it gains where the queue is long (docs/policies.md).
"""

BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("preempt_until", 0, 1),
    ("starve_after", 0, 1e9),
    ("quantum", 1, 1e9),
    ("ask_every", 0, 1e9),
    ("tail", 0, 1e6),
    ("lower_quantile", 0, 1),
    ("level_tokens", 1, 1e9),
    ("prompt_weight", 0, 1e6),
    ("token_ms", 0, 1e6),
)
"""(option, least, most)."""

WITH_ORDER = {"preempt_until": "preempts_until", "starve_after": "starves_after"}
"""Options whose default is the order's -> the property that has their value."""


@dataclass(frozen=True)
class ContinuousOptions:
    """Options of the `continuous` policy; the defaults are vLLM's."""

    max_num_seqs: int = 256
    """Most requests that run at a time."""
    max_num_batched_tokens: int = 2048
    """Most tokens that an iteration computes."""
    chunked: bool = True
    """Split prompts that exceed what is left of the token budget over several iterations."""
    order: Order = "fcfs"
    """Queue discipline: fcfs, shortest-predicted, shortest-remaining, priority, fair, shortest-prompt, ltr,
    gittins, tie, lower-bound, mlfq, memory-time, deadline, least-laxity, vtc; with prefix_caching=on
    longest-prefix-match or shortest-uncached.
    """
    aging_s: float = 0.0
    """Under order=priority: seconds of waiting that are worth one level; 0: no ageing."""
    admission: str = "prompt"
    """Memory that must be free to let a request in: chunk (for its first chunk), prompt, predicted (at the
    predicted peak of what runs and the request) or quantile:Q (at that peak, exceeded with probability 1-Q).
    """
    prefix_caching: Literal["off", "own", "on"] = "own"
    """Use again what memory still holds: nothing, what an evicted request had itself, or what any had that
    begins alike, by vLLM's rules (the trace has to say which do).
    """
    async_scheduling: bool | None = None
    """Decide an iteration while the one before it runs, as vLLM's servers do; default: what the profile says.
    """
    margin: float = 0.0
    """Safety margin on predictions: whole tokens or, between 0 and 1, a quantile of the true length."""
    perceive_batch: int = 128
    """Requests asked for their length in one batch."""
    perceive_wait_s: float = 1.0
    """Longest wait for questions to fill a batch while others run, since asking makes those pause."""
    preempt_until: float | None = None
    """A waiting request takes the place of a running one that ranks after it, unless that has this share of
    its predicted answer (TRAIL's limit): 0 never, 1 always; default: 1 under ltr, gittins, lower-bound and
    mlfq, else 0.
    """
    starve_after: int | None = None
    """Iterations after which a waiting request goes before all others, and where orders preempt keeps its
    place for `quantum` tokens; 0: never; default: 1000 under ltr and mlfq, 3000 under memory-time, else 0.
    """
    quantum: int = 128
    """Tokens that such a request gets before it can be preempted again."""
    ask_every: int = 0
    """Iterations after which all that decode are asked again how long their answers will be; 0: never."""
    tail: float = 1.0
    """order=tie: weight of the mean of the longest tenth, added to that of all."""
    lower_quantile: float = 0.1
    """order=lower-bound: quantile of the length that an estimate starts from."""
    level_tokens: int = 32
    """order=mlfq: quantum of the first queue, in tokens; it doubles from queue to queue."""
    prompt_weight: float = 0.01
    """order=mlfq: decoded tokens that a prompt token is worth, when a request joins a queue."""
    token_ms: float = 20.0
    """order=least-laxity: how long each token of the predicted rest takes."""
    late: Literal["first", "last"] = "first"
    """order=deadline, least-laxity: whether who can no longer be in time goes first, as due before the
    others, or after all that still can.
    """
    waits: WaitOption = "discard"
    """What becomes of a turn's memory while its session waits for the next turn: discard (it is found again
    until it is taken), preserve (it stays held), swap (it stays in CPU memory) or least-waste (whichever of
    these wastes the least memory over time, by the predicted wait).
    """
    rules: Literal["vllm", "sglang", "trtllm"] = "vllm"
    """Whose rules put iterations together and let requests in; the options below belong to the other two."""
    chunked_prefill_size: int = 8192
    """rules=sglang: most tokens of a prefill batch; with chunked=off there is no such bound."""
    max_prefill_tokens: int = 16384
    """rules=sglang: tokens at which a prefill batch is full."""
    schedule_conservativeness: float = 1.0
    """rules=sglang: multiplies what running requests are expected to need yet."""
    mixed_chunk: bool = False
    """rules=sglang: decode beside a prefill batch, instead of pausing."""
    capacity_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    """rules=trtllm: memory that must be free to let a request in: for prompt and cap, or for the prompt."""
    batch_wait_timeout_iters: int = 0
    """rules=trtllm: most iterations for which prompts are held back until there are more of them; 0: none."""
    batch_wait_max_tokens_ratio: float = 0.0
    """rules=trtllm: share of max_num_batched_tokens with which an iteration runs at once; 0: no waiting."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "perceive_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens} must be at least max_num_seqs "
                f"({self.max_num_seqs}), or running requests could not all get their next token"
            )
        if not 0.0 <= self.aging_s < 1e9:
            raise ValueError(f"aging_s: {self.aging_s} must be at least 0 and below 1000000000")
        if not 0.0 <= self.margin < 1e6:
            raise ValueError(f"margin: {self.margin} must be at least 0 and below 1000000")
        if not 0.0 <= self.perceive_wait_s < 1e9:
            raise ValueError(
                f"perceive_wait_s: {self.perceive_wait_s} must be at least 0 and below 1000000000"
            )
        self._check_admission()
        self._check_rules()
        self._check_ranking()
        self._check_waits()

    @property
    def admission_quantile(self) -> float | None:
        """Q of `quantile:Q`."""
        return quantile_of("admission", self.admission)

    @property
    def is_planned(self) -> bool:
        """Whether who may enter depends on the memory that answers are predicted to need."""
        return self.admission == "predicted" or self.admission_quantile is not None

    @property
    def preempts_until(self) -> float:
        """`preempt_until`, or what the order says."""
        return float(self.order in PREEMPTING) if self.preempt_until is None else self.preempt_until

    @property
    def starves_after(self) -> int:
        """`starve_after`, or what the order says."""
        return STARVES.get(self.order, 0) if self.starve_after is None else self.starve_after

    @property
    def is_ranked(self) -> bool:
        """Whether ranks matter beyond the queue: to those that run, or as they wait or grow."""
        is_guarded = self.starves_after > 0 and self.order not in BY_MEMORY  # which guard by themselves
        return self.preempts_until > 0 or is_guarded or self.ask_every > 0

    @property
    def needs(self) -> tuple[Need, ...]:
        """What has to be predicted of answers."""
        needs: list[Need] = [NEEDS[self.order]] if self.order in NEEDS else []
        if self.admission == "predicted" or self.margin > 0:
            needs.append("length")
        if self.admission_quantile is not None:
            needs.append("distribution")
        if self.waits != "discard":
            needs.append("wait")
        return (*needs, "again") if self.ask_every else tuple(needs)

    def _check_admission(self) -> None:
        if self.admission_quantile is None and self.admission not in ADMISSIONS:
            raise ValueError(
                f"admission: {self.admission!r} must be one of {', '.join(ADMISSIONS)}, quantile:Q"
            )

    def _check_ranking(self) -> None:
        """ValueError for an option of preemption or of a discipline that is out of bounds."""
        for name, least, most in BOUNDS:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name}: {value} must be between {least:g} and {most:g}")
        if self.ask_every and self.order != "shortest-remaining":
            raise ValueError(f"ask_every: {self.ask_every} needs order=shortest-remaining, not {self.order}")
        if self.is_ranked and self.rules != "vllm":
            raise ValueError(f"order: {self.order} preempts or guards, which rules={self.rules} do not")
        if self.order in BY_MEMORY and self.prefix_caching != "on":
            raise ValueError(f"order: {self.order} needs prefix_caching=on, not {self.prefix_caching}")
        if self.order == "vtc":
            self._refuse_any("order: vtc", "preempt_until", "starve_after", "ask_every", "rules")
        if self.late == "last":
            self._check_late()
        if self.order in BY_MEMORY:
            self._refuse_any(f"order: {self.order}", "preempt_until", "ask_every")

    def _check_late(self) -> None:
        """ValueError where nobody can be put off for being late under these options."""
        if self.order not in BY_DEADLINE:
            raise ValueError(f"late: last needs order={' or '.join(BY_DEADLINE)}, not {self.order}")
        self._refuse_any("late: last", "preempt_until", "starve_after", "rules", "waits")

    def _check_waits(self) -> None:
        """ValueError where memory cannot be held for turns to come under these options."""
        if self.waits == "discard":
            return
        if self.prefix_caching != "on":
            raise ValueError(f"waits: {self.waits} needs prefix_caching=on, not {self.prefix_caching}")
        self._refuse_orders(f"waits: {self.waits}")
        self._refuse_any(f"waits: {self.waits}", "preempt_until")

    def check_tiered(self) -> None:
        """ValueError where blocks cannot be kept in slower memory under these options."""
        if self.prefix_caching != "on":
            raise ValueError(f"kv_tier: needs prefix_caching=on, not {self.prefix_caching}")
        self._refuse_orders("kv_tier:")
        self._refuse_any("kv_tier:", *("preempt_until", "starve_after", "ask_every"))
        self._refuse_any("kv_tier:", *("admission", "chunked", "late"))

    def _refuse_orders(self, what: str) -> None:
        """ValueError where this does not go with the order, though no single option says why."""
        others = (*BY_MEMORY, "vtc")
        if self.order in others:
            allowed = ", ".join(each for each in get_args(Order) if each not in (*others, *PREEMPTING))
            raise ValueError(f"{what} does not go with order={self.order}; it does with {allowed}")

    def _refuse_any(self, what: str, *options: str) -> None:
        """ValueError for the first of these options that is not at its default, which this needs."""
        for name in options:
            value, usual, by_order = getattr(self, name), getattr(DEFAULTS, name), ""
            if name in WITH_ORDER:
                by_order = f", of order={self.order}" if value is None else ""
                value, usual = getattr(self, WITH_ORDER[name]), 0
            if value != usual:
                is_set, needed = (f"{name}={_shown(each)}" for each in (value, usual))
                raise ValueError(f"{what} does not go with {is_set}{by_order}; {needed} is needed")

    @property
    def never_evicts(self) -> bool:
        """Whether who has entered stays until the answer is complete."""
        return self.rules == "trtllm" and self.capacity_scheduler_policy == "guaranteed_no_evict"

    def _check_rules(self) -> None:
        """ValueError for an option of other rules than those that are chosen, and for one out of bounds."""
        if self.prefix_caching == "on" and self.rules != "vllm":
            raise ValueError(f"prefix_caching: on goes by rules=vllm, not by rules={self.rules}")
        for f in fields(self):
            rules = next((r for r, names in RULE_OPTIONS.items() if f.name in names), self.rules)
            if rules != self.rules and getattr(self, f.name) != f.default:
                raise ValueError(f"{f.name}: an option of rules={rules}, not of rules={self.rules}")
        for name in ("chunked_prefill_size", "max_prefill_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.batch_wait_timeout_iters < 0:
            raise ValueError(f"batch_wait_timeout_iters: {self.batch_wait_timeout_iters} must be at least 0")
        if not 0.0 <= self.batch_wait_max_tokens_ratio <= 1.0:
            ratio = self.batch_wait_max_tokens_ratio
            raise ValueError(f"batch_wait_max_tokens_ratio: {ratio} must be between 0 and 1")
        if not 0.0 <= self.schedule_conservativeness < 1e3:
            conservativeness = self.schedule_conservativeness
            raise ValueError(
                f"schedule_conservativeness: {conservativeness} must be at least 0 and below 1000"
            )


DEFAULTS = ContinuousOptions()


def _shown(value: object) -> str:
    """A value as an option is written."""
    return (
        {True: "on", False: "off"}[value]
        if isinstance(value, bool)
        else format(value, "g" if isinstance(value, float) else "")
    )
