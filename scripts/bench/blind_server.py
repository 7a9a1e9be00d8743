"""The `tollkeeper` command without what shows operators its calls: no events, no metrics of calls and of requests.

The level of the log is a setting; the bench sets it to `error`.
"""

from typing import Any


def main() -> None:
    """Run the command with the instruments of calls taken out."""
    from tollkeeper.cli import main as tollkeeper
    from tollkeeper.gateway.call_record import CallRecord
    from tollkeeper.telemetry.http_metrics import HttpMetrics

    def fail_only(record: CallRecord, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            record.fail(error)

    def observe_nothing(*_: Any) -> None:
        pass

    CallRecord.__exit__ = fail_only  # type: ignore[method-assign]
    HttpMetrics.__call__ = observe_nothing  # type: ignore[method-assign,assignment]
    tollkeeper()


if __name__ == "__main__":
    main()
