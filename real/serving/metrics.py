"""What the layer counts, for Prometheus: the names are vLLM's, under `seqsched_`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
RATIOS = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """The counters of one layer, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        label, by_class = ["model_name"], ["model_name", "slo_class"]

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], labels: list[str] = label
        ) -> Histogram:
            return Histogram(f"seqsched_{name}", text, labels, buckets=buckets, registry=r)

        def counter(name: str, text: str, labels: list[str]) -> Counter:
            return Counter(f"seqsched_{name}", text, labels, registry=r)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"seqsched_{name}", text, labels, registry=r)

        self.running = gauge("num_requests_running", "Requests that have a slot.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a slot.")
        self.slots = gauge("num_slots", "Slots of all upstreams that may be used now.")
        self.longest_wait = gauge("longest_wait_seconds", "How long the first in the queue has waited.")
        self.bound = gauge("starvation_bound_seconds", "Who has waited this long goes before all later ones.")
        self.share = gauge("policy_share", "The share of the traffic that the policy orders.")
        self.upstream_up = gauge("upstream_up", "Whether the upstream may be asked.", ("upstream",))
        self.ttft = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", SECONDS, by_class
        )
        self.tpot = histogram(
            "time_per_output_token_seconds", "Between tokens, the first left out.", SECONDS, by_class
        )
        self.e2e = histogram("e2e_request_latency_seconds", "From arrival to the end.", SECONDS, by_class)
        self.queue = histogram("request_queue_time_seconds", "From arrival to a slot.", SECONDS, by_class)
        self.output = histogram("request_generation_tokens", "Tokens of an answer.", TOKENS)
        self.ratio = histogram("predicted_length_ratio", "Tokens predicted over tokens generated.", RATIOS)
        arm = ["arm"]
        self.arm_e2e = Histogram(
            "seqsched_arm_e2e_request_latency_seconds", "The same, by arm.", arm, buckets=SECONDS, registry=r
        )
        self.arm_failure = counter("arm_request_failure", "Requests without a whole answer, by arm.", arm)
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.", label)
        self.output_tokens = counter("generation_tokens", "Tokens of answers.", label)
        self.success = counter("request_success", "Answers that came whole.", [*label, "finished_reason"])
        self.failure = counter("request_failure", "Requests without a whole answer.", [*label, "reason"])
        self.slo = counter(
            "request_slo",
            "Requests that state a bound, by the latency that it is on; all: within all of theirs.",
            [*by_class, "latency", "is_met"],
        )
        self.refused = counter("request_refused", "Requests that were not let in.", ["reason"])
        self.retries = counter("upstream_retries", "Requests sent again before anything came.", ["upstream"])
        self.continuations = counter("continuations", "Answers that ran over and were queued again.", [])
        self.begun_again = counter("restarts", "Answers that were begun again uncut.", [])
        self.mirrored = counter(
            "mirrored_answers",
            "Answers compared with that to a plain copy, by whose they are.",
            ["answers", "is_same"],
        )
        self.not_mirrored = counter("mirrored_left_out", "Copies that were not compared.", [])
        self.not_logged = counter("log_rows_lost", "Rows that the log had no room for.", [])
        self.overdue = counter("overdue_requests", "Requests sent by the starvation bound.", [])
        self.scheduler_failures = counter("scheduler_failures", "Schedulers that failed.", [])

    def text(self) -> bytes:
        """All of them, as Prometheus reads it."""
        return generate_latest(self.registry)
