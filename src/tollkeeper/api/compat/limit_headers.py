"""The tightest token quota in the headers in which OpenAI and Anthropic describe their own limits.

Sources: OpenAI, "Rate limits", section "Rate limits in headers"; Anthropic, "Rate limits", section "Response headers".
"""

from tollkeeper.api.formats import LimitHeaders, iso


def duration(milliseconds: int) -> str:
    """A time span as OpenAI writes it, rounded up to seconds: `6m0s`."""
    minutes, seconds = divmod(-(-max(0, milliseconds) // 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


OPENAI = LimitHeaders(
    limit="x-ratelimit-limit-tokens",
    remaining="x-ratelimit-remaining-tokens",
    reset="x-ratelimit-reset-tokens",
    format_reset=lambda resets_ms, now_ms: duration(resets_ms - now_ms),
)
ANTHROPIC = LimitHeaders(
    limit="anthropic-ratelimit-tokens-limit",
    remaining="anthropic-ratelimit-tokens-remaining",
    reset="anthropic-ratelimit-tokens-reset",
    format_reset=lambda resets_ms, _: iso(resets_ms) or "",
)
