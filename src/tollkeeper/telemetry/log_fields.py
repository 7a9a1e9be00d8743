"""The fields that a log line may have. What is not on this list is left out, so that nothing of a user gets in by
mistake: a field is added here after a look at what its values can be.
"""

FIELDS = frozenset(
    {
        "address",  # of a client that has failed to log in
        "calls",
        "charge_id",
        "charges",
        "code",
        "command",
        "connections",
        "correlation_id",
        "count",
        "error",
        "event",
        "exception",
        "exit",
        "head",
        "key",  # the id of a tenant's provider key
        "level",
        "lived_s",
        "log_level",
        "logger",
        "message",  # of a library, redacted
        "model",
        "models",
        "months",  # that were archived
        "operation",
        "pid",
        "provider",
        "provider_code",
        "reason",
        "seconds",
        "sequence",
        "settings",  # names of variables
        "sink",
        "stack",
        "stalled_s",
        "started",
        "status",
        "tenant_id",
        "text",  # of a provider's error, only where the operator has turned that on
        "thread",
        "timestamp",
        "alert_id",
        "kind",  # of a quota: whose it is
        "limit",
        "percent",
        "quota_id",
        "unit",
        "used",
        "user_id",
        "window",
        "worker",
    }
)
LEFT_OUT = "left_out"
"""The field that names what was left out."""
