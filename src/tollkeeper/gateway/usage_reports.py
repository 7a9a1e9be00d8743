"""Decides what a call is charged by: the provider's usage report, or a count where the report cannot be true.

A report must be consistent with itself, and with what was sent and received. A total above the sum of its parts is
output that was billed unseen. An input of 0 for a prompt, and an output of 0 for an answer, are placeholders. What is
counted instead costs at most the hold, but never less than the report proves.
"""

from typing import NamedTuple

from tollkeeper.chat import InconsistentUsage, Usage, UsageReport
from tollkeeper.quota.rules.meter import Meter
from tollkeeper.quota.rules.models import Basis


class Evidence(NamedTuple):
    """What is known of a call apart from its report. Counts are in tokens.

    `covered`: the report was sent after all output, so that it covers the whole call. `without_output`: the model only
    reads.
    """

    max_input: int
    max_output: int
    has_input: bool = True
    has_output: bool = True
    covered: bool = True
    without_output: bool = False


class ChargedUsage(NamedTuple):
    usage: Usage
    basis: Basis


def usage_as_reported(report: UsageReport | None, evidence: Evidence) -> Usage | None:
    """The usage to charge by the report alone; None if the report cannot be true, so that the call must be counted."""
    if report is None or not evidence.covered:
        return None
    usage = report if isinstance(report, Usage) else _resolved_by_total(report, evidence)
    if usage is None or not _is_possible(usage, evidence):
        return None
    if _is_placeholder(usage.input_tokens, evidence.has_input):
        return None
    return None if _is_placeholder(usage.output_tokens, evidence.has_output) else usage


def usage_as_counted(
    report: UsageReport | None, evidence: Evidence, counted: Usage, meter: Meter, hold: Usage
) -> ChargedUsage:
    """The usage to charge for a report that cannot be true. `counted` is the count of what was sent and received.

    The ledger charges a count at most the hold. A report that proves more than the hold, `hold` being the most
    expensive usage that it covers, is charged as far as it proves it.
    """
    proven = proven_usage(report, evidence)
    input_tokens = max(counted.input_tokens, proven.input_tokens)
    output_tokens = max(counted.output_tokens, proven.output_tokens)
    cached, cache_write = 0, proven.cache_write_tokens
    if isinstance(report, Usage) and evidence.covered and _is_possible(report, evidence):  # one part is a placeholder
        if report.input_tokens:
            input_tokens, cached, cache_write = report.input_tokens, *report[2:4]
        output_tokens = report.output_tokens or output_tokens
    missing = proven.total_tokens - input_tokens - output_tokens
    usage = Usage(input_tokens, output_tokens + max(0, missing), cached, cache_write)
    for cost in (meter.tokens, meter.micro_usd):
        if (cost(proven) or 0) > (cost(hold) or 0):
            return ChargedUsage(proven, Basis.PROVIDER)
    return ChargedUsage(usage, Basis.COUNTED)


def proven_usage(report: UsageReport | None, evidence: Evidence) -> Usage:
    """The least usage that the possible counts of the report prove. Its cached input counts as full input."""
    if report is None:
        return Usage(0, 0)
    written = report.cache_write_tokens
    if report.cached_input_tokens + written > evidence.max_input:
        written = 0
    input_tokens = _possible(report.input_tokens, evidence.max_input)
    output_tokens = _possible(report.output_tokens, evidence.max_output)
    output_tokens = max(output_tokens, _possible(report.reasoning_tokens, evidence.max_output))
    ...
