"""Decides what a call is charged by: the provider's usage report, or a count where the report cannot be true.

A report must be consistent with itself, and with what was sent and received. A total above the sum of its parts is
output that was billed unseen. An input of 0 for a prompt, and an output of 0 for an answer, are placeholders. What is
counted instead costs at most the hold, but never less than the report proves.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tollkeeper.chat import InconsistentUsage, Usage, UsageReport
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.quota.reservation import Reservation
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
    """A usage to charge, and what it is based on."""

    usage: Usage
    basis: Basis


async def set_usage(
    reservation: Reservation,
    candidate: Candidate,
    report: UsageReport | None,
    count: Callable[[], Awaitable[tuple[int, int]]],
    *,
    has_output: bool,
    covered: bool = True,
) -> ChargedUsage:
    """Report to the reservation the usage of a call, by the report or, where it cannot be true, by `count`.

    `count` returns the tokens of the input and of the output. `has_output`: some output was received.
    """
    evidence = Evidence(
        max_input=candidate.model.context_window,
        max_output=candidate.max_output,
        has_input=report is None or bool(report.input_tokens) or candidate.has_input,
        has_output=has_output,
        covered=covered,
        without_output=candidate.call.without_output,
    )
    usage = usage_as_reported(report, evidence)
    if usage is not None:
        charged = ChargedUsage(usage, Basis.PROVIDER)
    else:
        meter, counted = reservation.terms.meter, Usage(*await count())
        hold = meter.most_expensive_usage(reservation.terms.input_bound, reservation.granted_output)
        charged = usage_as_counted(report, evidence, counted, meter, hold)
    reservation.set_usage(*charged)
    return charged


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
    parts, proven = _proven_parts(report, evidence), proven_usage(report, evidence)
    input_tokens = max(counted.input_tokens, parts.input_tokens)
    output_tokens = max(counted.output_tokens, parts.output_tokens)
    cached, cache_write = 0, parts.cache_write_tokens
    if isinstance(report, Usage) and evidence.covered and _is_possible(report, evidence):  # one part is a placeholder
        if report.input_tokens:
            input_tokens, cached, cache_write = report.input_tokens, *report[2:4]
        output_tokens = report.output_tokens or output_tokens
    elif report is not None and evidence.covered and _is_consistent_input(report, evidence):
        cached = report.cached_input_tokens
    usage = _raised(Usage(input_tokens, output_tokens, cached, cache_write), proven.total_tokens, evidence)
    for cost in (meter.tokens, meter.micro_usd):
        if (cost(proven) or 0) > (cost(hold) or 0):
            return ChargedUsage(proven, Basis.PROVIDER)
    return ChargedUsage(usage, Basis.COUNTED)


def proven_usage(report: UsageReport | None, evidence: Evidence) -> Usage:
    """The least usage that the possible counts of a report prove. Its cached input counts as full input."""
    return _raised(_proven_parts(report, evidence), _proven_total(report, evidence), evidence)


def _proven_parts(report: UsageReport | None, evidence: Evidence) -> Usage:
    """What the counts prove without the total."""
    if report is None:
        return Usage(0, 0)
    written = _possible(report.cache_write_tokens, evidence.max_input)
    from_cache = _possible(report.cached_input_tokens + written, evidence.max_input)
    input_tokens = max(_possible(report.input_tokens, evidence.max_input), from_cache)
    reasoning = _possible(report.reasoning_tokens, evidence.max_output)
    output_tokens = max(_possible(report.output_tokens, evidence.max_output), reasoning)
    return Usage(input_tokens, output_tokens, 0, min(written, input_tokens))


def _proven_total(report: UsageReport | None, evidence: Evidence) -> int:
    """The reported total; 0 if it is impossible, or if it includes an impossible part."""
    if not isinstance(report, InconsistentUsage):
        return 0
    input_tokens, output_tokens = report.input_tokens or 0, report.output_tokens or 0
    if input_tokens > evidence.max_input or output_tokens > evidence.max_output:
        return 0
    max_output = 0 if evidence.without_output else evidence.max_output
    return _possible(report.total_tokens, (input_tokens or evidence.max_input) + max_output)


def _raised(usage: Usage, least_total: int, evidence: Evidence) -> Usage:
    """The usage, raised to that total: by output, where the model has any."""
    missing = max(0, least_total - usage.input_tokens - usage.output_tokens)
    if evidence.without_output:
        return usage._replace(input_tokens=usage.input_tokens + missing)
    return usage._replace(output_tokens=usage.output_tokens + missing)


def _resolved_by_total(report: InconsistentUsage, evidence: Evidence) -> Usage | None:
    """The usage where the total explains what the parts lack: output that was not sent, or a part that is missing."""
    input_tokens, output_tokens, total, cached, written, reasoning = report
    if input_tokens is None or total is None or cached + written > input_tokens:
        return None
    all_output = total - input_tokens
    if all_output < reasoning or (output_tokens is not None and all_output <= output_tokens):
        return None
    if evidence.without_output:
        return Usage(total, 0, cached, written) if all_output else None
    unseen = 0 if output_tokens is None else all_output - output_tokens
    return Usage(input_tokens, all_output, cached, written, max(unseen, reasoning))


def _is_consistent_input(report: UsageReport, evidence: Evidence) -> bool:
    """Whether the counts of the input agree with each other, whatever the other counts are."""
    from_cache = report.cached_input_tokens + report.cache_write_tokens
    return report.input_tokens is not None and from_cache <= report.input_tokens <= evidence.max_input


def _is_possible(usage: Usage, evidence: Evidence) -> bool:
    return usage.input_tokens <= evidence.max_input and usage.output_tokens <= evidence.max_output


def _is_placeholder(tokens: int, received: bool) -> bool:
    """Whether a count of 0 stands for something."""
    return tokens == 0 and received


def _possible(tokens: int | None, most: int) -> int:
    """The count; 0 if there is none, or if it is impossible."""
    return tokens if tokens is not None and tokens <= most else 0
