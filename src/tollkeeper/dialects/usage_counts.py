"""Reads the counts of a usage report under the names that servers give them, and joins the reports of one stream."""

from collections.abc import Sequence
from typing import Any

from tollkeeper.chat import InconsistentUsage, Usage, UsageReport
from tollkeeper.dialects.answer_checks import MAX_TOKEN_COUNT, token_count, usage_report

CHAT_NAMES = ("prompt_tokens", "completion_tokens")
RESPONSES_NAMES = ("input_tokens", "output_tokens")
"""The names of input and output, which are also the begins of the names of their details."""


def first_count(reported: dict[str, Any], names: Sequence[str]) -> int | None:
    """The first count above 0 of the fields with these names; else 0 if one is 0; None if none is a count."""
    found = None
    for name in names:
        count = token_count(reported.get(name))
        if count:
            return count
        if count is not None:
            found = count
    return found


def read_openai_usage(reported: Any, own: tuple[str, str], other: tuple[str, str]) -> UsageReport | None:
    """The usage under the names of OpenAI's wire formats; None if there is none, or no count in it is valid.

    `own`: the names of the wire format; `other`: those that some servers send in place of them.
    """
    if not isinstance(reported, dict):
        return None
    (own_input, own_output), (other_input, other_output) = own, other
    input_details = _details(reported, own_input) or _details(reported, other_input)
    output_details = _details(reported, own_output) or _details(reported, other_output)
    cached = token_count(
        input_details.get("cached_tokens")
        or reported.get("cached_tokens")  # Moonshot
        or reported.get("prompt_cache_hit_tokens")  # DeepSeek
        or 0
    )
    return usage_report(
        first_count(reported, (own_input, other_input)),
        first_count(reported, (own_output, other_output)),
        reported.get("total_tokens"),
        cached,
        token_count(input_details.get("cache_write_tokens") or 0),
        token_count(output_details.get("reasoning_tokens")) or 0,
    )


def cached_in_details(reported: dict[str, Any], name: str) -> int | None:
    """The cached tokens in the details of this count: 0 if they are missing, None if they are malformed."""
    return token_count(_details(reported, name).get("cached_tokens") or 0)


def _details(reported: dict[str, Any], name: str) -> dict[str, Any]:
    details = reported.get(f"{name}_details")
    return details if isinstance(details, dict) else {}


def merged_report(
    earlier: UsageReport | None,
    later: UsageReport,
    max_input: int = MAX_TOKEN_COUNT,
    max_output: int = MAX_TOKEN_COUNT,
) -> UsageReport:
    """The report of a stream that reports twice. Counts are totals so far, so that of each the larger one is true.

    A count above `max_input` or `max_output` is impossible: it replaces no possible one.
    """
    if earlier is None or earlier == later:
        return later
    first, second = InconsistentUsage(*_counts(earlier)), InconsistentUsage(*_counts(later))
    input_tokens = _larger(first.input_tokens, second.input_tokens, max_input)
    output_tokens = _larger(first.output_tokens, second.output_tokens, max_output)
    total = _larger(first.total_tokens, second.total_tokens, max_input + max_output)
    cached = max(first.cached_input_tokens, second.cached_input_tokens)
    written = max(first.cache_write_tokens, second.cache_write_tokens)
    if cached + written > (input_tokens or 0):  # the reports share the input out differently: more written costs more
        written, cached = max((one.cache_write_tokens, one.cached_input_tokens) for one in (first, second))
    reasoning = max(first.reasoning_tokens, second.reasoning_tokens)
    counts = (input_tokens, output_tokens, total, cached, written, reasoning)
    if not any(isinstance(one, Usage) for one in (earlier, later)) and (_contradicts(first) or _contradicts(second)):
        return InconsistentUsage(*counts)
    return usage_report(*counts) or later


def _counts(report: UsageReport) -> Sequence[Any]:
    """The counts of an InconsistentUsage. A Usage has no reported total."""
    return (*report[:2], None, *report[2:]) if isinstance(report, Usage) else report


def _contradicts(report: InconsistentUsage) -> bool:
    """Whether the report has both parts, so that something else in it is odd."""
    return report.input_tokens is not None and report.output_tokens is not None


def _larger(first: int | None, second: int | None, most: int) -> int | None:
    """The larger of the counts that are possible; else the second; else the first."""
    possible = [count for count in (first, second) if count is not None and count <= most]
    if possible:
        return max(possible)
    return first if second is None else second
