"""All metrics by name. The values of labels come from fixed lists and the models that are served, never from a request.

Front-ends and the keeper have a set each; where they are told, those of one name are summed, or the largest is taken.
"""

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.multiprocess import mark_process_dead

COUNTERS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # Where prometheus_client keeps the counters of several processes.

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RPC_LABELS = ("grpc_service", "grpc_method")
BUILD_LABELS = ("version", "torch_version", "python_version")

# Series that say when others began would be as many as the counters.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one process, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.started = Counter("grpc_server_started", "RPCs started", RPC_LABELS, registry=r)
        self.handled = Counter("grpc_server_handled", "RPCs completed, by code", (*RPC_LABELS, "grpc_code"), registry=r)
        self.handling = _seconds(r, "grpc_server_handling_seconds", "Time of RPCs", (*RPC_LABELS, "model"))
        self.queue = _seconds(r, "gradserve_queue_seconds", "Wait before the first pass", ("model",))
        self.step = _seconds(r, "gradserve_step_seconds", "Time of a pass", ("model",))
        self.step_rows = Histogram(
            "gradserve_step_rows", "Rows in a pass", ("model",), registry=r, buckets=ROWS_BUCKETS
        )
        self.rows = Counter("gradserve_rows", "Rows computed", ("method",), registry=r)
        self.in_flight = _sum(r, "gradserve_jobs_in_flight", "Requests being worked on", ("method",))
        self.cost = _sum(r, "gradserve_cost_outstanding", "Work accepted and not done, in GFLOP")
        self.rejected = Counter("gradserve_rejected", "Requests refused", ("reason",), registry=r)
        self.caller_cost = Counter("gradserve_caller_gflop", "Work accepted, by token", ("caller",), registry=r)
        self.unanswered = Counter("gradserve_rows_unanswered", "Rows computed for requests not answered", registry=r)
        self.wait = _largest(r, "gradserve_wait_seconds", "Expected wait of a new interactive request")
        self.capacity = _largest(r, "gradserve_capacity_gflops", "GFLOP per second of all workers lately")
        self.verdict = Counter("gradserve_attack_verdict", "Attacks answered, by verdict", ("verdict",), registry=r)
        self.partial = Counter("gradserve_partial", "Answers with less than was asked for", registry=r)
        self.cancelled = Counter("gradserve_cancelled", "Requests whose caller went away", registry=r)
        self.workers_ready = _largest(r, "gradserve_workers_ready", "Workers that take requests")
        self.restarts = Counter("gradserve_worker_restarts", "Workers that died and were replaced", registry=r)
        self.front_end_restarts = Counter("gradserve_front_end_restarts", "Front-ends that died", registry=r)
        self.model_changes = Counter(
            "gradserve_model_changes", "Changes of the served models", ("action", "result"), registry=r
        )
        self.late = Counter("gradserve_heartbeats_late", "Times that a worker was found silent", registry=r)
        self.oom = Counter("gradserve_oom_retries", "Passes retried smaller for lack of memory", registry=r)
        self.memory = _largest(r, "gradserve_device_memory_bytes", "Memory of the largest worker (CPU: its peak)")

        self.build = _largest(r, "gradserve_build_info", "1, with the versions of what runs", BUILD_LABELS)

    def forget(self, place: str) -> None:
        """Drops the gauges of the process in that place, which has ended; what it counted stays."""
        mark_process_dead(place, os.environ.get(COUNTERS_VARIABLE))  # type: ignore[no-untyped-call]


def count_in_place(place: str) -> None:
    """Lets this process keep its metrics in the files of its place, in the folder that COUNTERS_VARIABLE names.

    It goes on from the counts of those that had the place before, so that there are as many files as places, however
    often a process is started again. It must be called before any metric is made.
    """
    values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]


def count_in_memory() -> None:
    """Ends what `count_in_place` began, for metrics that are made from now on."""
    values.ValueClass = values.MutexValue


def _seconds(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
    return Histogram(name, text, labels, registry=registry, buckets=SECONDS_BUCKETS)


def _sum(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge of which the sum over all processes that live is told."""
    return Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")


def _largest(registry: CollectorRegistry, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge of which the largest value of all processes that live is told."""
    return Gauge(name, text, labels, registry=registry, multiprocess_mode="livemax")
