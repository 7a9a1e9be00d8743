"""The metrics of a server: the listeners that count, and the numbers that are read."""

from collections.abc import Mapping, Sequence

from prometheus_client.registry import Collector

from tollkeeper import __version__
from tollkeeper.alerts.task import QuotaAlerts
from tollkeeper.bootstrap.events import EventSink
from tollkeeper.bootstrap.readings import open_circuits, refusals_by_limit
from tollkeeper.contents.content_log import ContentLog
from tollkeeper.database.clock import DatabaseClock
from tollkeeper.documents.indexing import Indexing
from tollkeeper.documents.retriever import Retriever
from tollkeeper.documents.runner import DocumentRunner
from tollkeeper.gateway.cached_vectors import AnswerCache
from tollkeeper.gateway.call_metrics import CallMetrics
from tollkeeper.identity.failed_logins import FailedLogins
from tollkeeper.jobs.running import RunningJobs
from tollkeeper.jobs.service import Jobs
from tollkeeper.jobs.upkeep import JobUpkeep
from tollkeeper.providers.catalog import Catalog
from tollkeeper.quota.ledger import Ledger
from tollkeeper.rate_limits.throttle import Throttle
from tollkeeper.retrieval.vectors import VectorMemory
from tollkeeper.scores.counts import ScoreCounts
from tollkeeper.server.limits import Connections
from tollkeeper.telemetry.http_metrics import HttpMetrics
from tollkeeper.telemetry.log_writer import LogWriter
from tollkeeper.telemetry.loop_watchdog import LoopWatchdog
from tollkeeper.telemetry.process_metrics import BatchMetrics, Reading, StateCollector, make_registry
from tollkeeper.telemetry.task_runs import Task, TaskRuns
from tollkeeper.webhooks.attempts import Attempts, Result
from tollkeeper.webhooks.sender import WebhookSender
from tollkeeper.webhooks.upkeep import WebhookUpkeep


class ServerMetrics:
    """The registry of a process; the listeners `calls`, `batches` and `requests`; and the `task_runs`.

    `shown` are the metrics that are served: with several workers, those of all.
    """

    def __init__(self) -> None:
        self.registry = make_registry()
        self.shown: Collector = self.registry
        self.calls = CallMetrics(self.registry)
        self.batches = BatchMetrics(self.registry)
        self.requests = HttpMetrics(self.registry)
        self.task_runs = TaskRuns()
        self._read(
            [Reading("tollkeeper_build_info", "1, with the version.", lambda: {(__version__,): 1}, ("version",))],
            [],
        )

    def watch_ledger(self, ledger: Ledger, catalog: Catalog, watchdog: LoopWatchdog, clock: DatabaseClock) -> None:
        """Read the state of the ledger, of the providers, of the event loop and of the clocks at every scrape."""
        self.calls.is_listed = catalog.lists
        gauges = [
            Reading("tollkeeper_calls_in_flight", "Open charges of this process.", lambda: ledger.in_flight),
            Reading("tollkeeper_oldest_hold_seconds", "The age of the oldest of them.", lambda: ledger.oldest_hold_s),
            Reading("tollkeeper_ledger_queue", "Operations that wait to be committed.", lambda: ledger.queued),
            Reading(
                "tollkeeper_ledger_available", "1 while the ledger admits calls, else 0.", lambda: ledger.available
            ),
            Reading(
                "tollkeeper_database_clock_skew_seconds",
                "By how many seconds the database's clock is ahead, compared once a minute.",
                lambda: clock.skew_s or 0.0,
            ),
            Reading(
                "tollkeeper_breaker_open",
                "Open circuits of a provider: of its connection (0 or 1), and of how many of its models.",
                lambda: open_circuits(catalog),
                ("gen_ai_provider_name", "circuit"),
            ),
            Reading(
                "tollkeeper_task_last_success_timestamp_seconds",
                "When each background task last succeeded, or the server has started.",
                lambda: {(task.value,): at for task, at in self.task_runs.succeeded_at.items()},
                ("task",),
            ),
        ]
        counters = [
            Reading("tollkeeper_swept_charges", "Charges whose leases were over.", lambda: ledger.swept.charges),
            Reading(
                "tollkeeper_swept_forgiven_tokens",
                "Tokens of their holds that were not deducted.",
                lambda: ledger.swept.forgiven_tokens,
            ),
            Reading(
                "tollkeeper_swept_forgiven_micro_usd",
                "Money of their holds that was not deducted, in micro-USD.",
                lambda: ledger.swept.forgiven_micro_usd,
            ),
            Reading("tollkeeper_loop_stalls", "Times that a call has blocked the event loop.", lambda: watchdog.stalls),
            Reading(
                "tollkeeper_loop_stalled_seconds", "How long the event loop was blocked.", lambda: watchdog.stalled_s
            ),
            Reading("tollkeeper_task_runs", "Runs of background tasks.", self._count_runs, ("task", "result")),
        ]
        self._read(gauges, counters)

    def watch_jobs(self, upkeep: JobUpkeep, running: RunningJobs) -> None:
        """Read how many background jobs there are at every scrape."""
        gauges = [
            Reading(
                "tollkeeper_jobs",
                "Background jobs of the whole installation that have not ended, some seconds ago.",
                lambda: {(status,): count for status, count in upkeep.open_jobs.items()},
                ("status",),
            ),
            Reading(
                "tollkeeper_jobs_oldest_pending_seconds",
                "How long the oldest of the pending ones has waited.",
                lambda: upkeep.oldest_pending_s,
            ),
            Reading("tollkeeper_jobs_running", "Background jobs that this process runs.", lambda: len(running)),
        ]
        self._read(gauges, [])

    def watch_webhooks(self, upkeep: WebhookUpkeep, attempts: Attempts, sender: WebhookSender) -> None:
        """Read the state of the outbox, and count this process's attempts, at every scrape."""
        gauges = [
            Reading(
                "tollkeeper_webhooks_pending",
                "Deliveries of the whole installation that have not ended, some seconds ago.",
                lambda: upkeep.state.pending,
            ),
            Reading(
                "tollkeeper_webhooks_overdue_seconds",
                "How long the oldest delivery has been due whose webhook works.",
                lambda: upkeep.state.overdue_s,
            ),
            Reading(
                "tollkeeper_webhooks",
                "Webhooks whose last attempt has failed, and disabled ones.",
                lambda: {("failing",): upkeep.state.failing, ("disabled",): upkeep.state.disabled},
                ("state",),
            ),
            Reading("tollkeeper_webhooks_running", "Requests to receivers that run.", lambda: len(sender)),
        ]
        counters = [
            Reading(
                "tollkeeper_webhook_attempts",
                "Requests to receivers that have ended. The last one of a delivery is dead, not failed.",
                lambda: {(result.value,): attempts.results[result] for result in Result},
                ("result",),
            ),
            Reading(
                "tollkeeper_webhooks_disabled",
                "Webhooks that were disabled because their receivers failed for days, or answered 410.",
                lambda: attempts.disabled,
            ),
        ]
        self._read(gauges, counters)

    def watch_documents(
        self, runner: DocumentRunner, indexing: Indexing, retriever: Retriever, memory: VectorMemory
    ) -> None:
        """Read how many documents there are, and what is done with them, at every scrape."""
        gauges = [
            Reading(
                "tollkeeper_documents",
                "Documents of the whole installation, some seconds ago.",
                lambda: {(status,): count for status, count in runner.by_status.items()},
                ("status",),
            ),
            Reading(
                "tollkeeper_documents_oldest_waiting_seconds",
                "How long the one has waited that waits to be processed, or is processed, for longest.",
                lambda: runner.oldest_waiting_s,
            ),
            Reading("tollkeeper_vector_bytes", "Vectors of documents in memory.", lambda: memory.bytes),
        ]
        counters = [
            Reading("tollkeeper_embedded_chunks", "Chunks that were embedded.", lambda: indexing.embedded_chunks),
            Reading("tollkeeper_searches", "Searches of documents, also those for a call.", lambda: retriever.searches),
        ]
        self._read(gauges, counters)

    def watch_edge(self, throttle: Throttle, failed_logins: FailedLogins, jobs: Jobs, connections: Connections) -> None:
        """Read what is refused before a call begins, and what is open, at every scrape."""
        gauges = [
            Reading("tollkeeper_connections", "Open connections of clients.", lambda: len(connections)),
            Reading("tollkeeper_websockets", "Open WebSockets of users.", lambda: throttle.open_sockets),
            Reading(
                "tollkeeper_limits_store_away",
                "1 while the shared store of the rate limits does not answer.",
                lambda: throttle.store_is_away,
            ),
        ]
        counters = [
            Reading(
                "tollkeeper_refusals_by_limit",
                "Requests, connections and WebSockets that a limit has refused, by the name of its setting.",
                lambda: refusals_by_limit(throttle, jobs, connections),
                ("setting",),
            ),
            Reading("tollkeeper_bad_requests", "Requests that were no valid HTTP.", lambda: connections.bad_requests),
            Reading("tollkeeper_authentication_failures", "Wrong credentials, of any kind.", lambda: throttle.failures),
            Reading("tollkeeper_failed_logins", "Failed logins, also of single sign-on.", lambda: failed_logins.total),
        ]
        self._read(gauges, counters)

    def watch_alerts(self, alerts: QuotaAlerts) -> None:
        """Count the alerts that this process has fired, at every scrape."""
        self._read([], [Reading("tollkeeper_quota_alerts", "Alerts on quotas that have fired.", lambda: alerts.fired)])

    def watch_workers(self, replaced: int) -> None:
        """Count this process as a worker, perhaps one of several, of which `replaced` have ended before it started."""
        self._read(
            [Reading("tollkeeper_workers", "Worker processes that serve.", lambda: 1)],
            [Reading("tollkeeper_workers_replaced", "Worker processes that have ended.", lambda: replaced)],
        )

    def watch_log(self, writer: LogWriter) -> None:
        """Read what the log could not take at every scrape."""
        dropped = Reading(
            "tollkeeper_log_lines_dropped",
            "Lines of the log that were dropped, because standard output was not read in time.",
            lambda: writer.dropped,
        )
        self._read([], [dropped])

    def watch_sinks(self, sinks: Sequence[EventSink]) -> None:
        """Read the state of the sinks of events at every scrape."""
        gauges = [
            Reading(
                "tollkeeper_events_queued",
                "Calls whose events a sink has yet to write.",
                lambda: {(sink.name,): sink.queued for sink in sinks},
                ("sink",),
            ),
            Reading(
                "tollkeeper_events_sink_failing",
                "1 if the last write of a sink has failed, else 0.",
                lambda: {(sink.name,): sink.is_failing for sink in sinks},
                ("sink",),
            ),
        ]
        dropped = Reading(
            "tollkeeper_events_dropped",
            "Calls whose events a sink has dropped.",
            lambda: {(sink.name,): sink.dropped for sink in sinks},
            ("sink",),
        )
        self._read(gauges, [dropped])

    def watch_contents(self, contents: ContentLog) -> None:
        """Read the state of content logging at every scrape."""
        dropped = Reading(
            "tollkeeper_contents_dropped",
            "Calls whose contents could not be stored.",
            lambda: contents.dropped,
        )
        self._read([], [dropped])

    def watch_cache(self, cache: AnswerCache) -> None:
        """Read the state of the response cache at every scrape."""
        gauges = [
            Reading("tollkeeper_cache_entries", "Answers in the response cache.", lambda: len(cache)),
            Reading("tollkeeper_cache_bytes", "What they take in memory, about.", lambda: cache.bytes),
            Reading("tollkeeper_cache_waiting", "Calls that wait for another one's answer.", lambda: cache.waiting),
        ]
        calls = Reading(
            "tollkeeper_cache_calls",
            "Calls for which the response cache is on: answered from it, with another running call, or by a provider.",
            lambda: {("hit",): cache.hits, ("joined",): cache.joined, ("miss",): cache.misses},
            ("result",),
        )
        self._read(gauges, [calls])

    def watch_scores(self, counts: ScoreCounts) -> None:
        """Read the counts of the scores at every scrape."""
        counters = [
            Reading(
                "tollkeeper_evaluations",
                "Answers that a judge was to rate: those with a score, and those without one by the reason.",
                lambda: {found: count for found, count in counts.results.items()},  # noqa: C416
                ("origin", "result"),
            ),
            Reading(
                "tollkeeper_evaluation_points",
                "The sum of their scores.",
                lambda: {(origin,): points for origin, points in counts.points.items()},
                ("origin",),
            ),
        ]
        self._read([], counters)

    def _read(self, gauges: Sequence[Reading], counters: Sequence[Reading]) -> None:
        self.registry.register(StateCollector(gauges, counters))

    def _count_runs(self) -> Mapping[tuple[str, ...], float]:
        runs: dict[tuple[str, ...], float] = {}
        for task in Task:
            runs[task.value, "succeeded"] = self.task_runs.succeeded[task]
            runs[task.value, "failed"] = self.task_runs.failed[task]
        return runs
