"""The parameters of a response, each in its class. What stands inside of them is looked at in `items`."""

from typing import Any

from tollkeeper.dialects.parameters import (
    DROP,
    OURS,
    PASS,
    PRICE,
    REFUSE,
    Known,
    Only,
    Rule,
    Treatment,
    check_value,
    refusal,
)

_FORMAT = {"type": None, "name": None, "description": None, "schema": None, "strict": None}

PARAMETERS: dict[str, Rule] = {
    "access_programs": REFUSE,  # what the operator's account may do is not the caller's to choose
    "background": Only((False,), DROP),
    "context_management": REFUSE,  # compaction writes tokens that no limit bounds
    "conversation": REFUSE,
    "image": Known({"context_compression": None}),
    "include": PASS,
    "input": PRICE,
    "instructions": PRICE,
    "max_output_tokens": OURS,
    "max_tool_calls": PASS,
    "metadata": PASS,
    "model": OURS,
    "moderation": REFUSE,  # asks a second model
    "parallel_tool_calls": PASS,
    "previous_response_id": REFUSE,
    "prompt": REFUSE,  # a template kept at the provider
    "prompt_cache_key": PASS,
    "prompt_cache_options": PASS,
    "prompt_cache_retention": Only(("in_memory",)),
    "reasoning": Known({"context": None, "effort": None, "generate_summary": None, "mode": None, "summary": None}),
    "safety_identifier": PASS,
    "service_tier": Only(("auto", "default")),
    "store": Only((False,), OURS),
    "stream": OURS,
    "stream_options": Known({"include_obfuscation": None}, OURS),
    "temperature": PASS,
    "text": Known({"format": _FORMAT, "verbosity": None}),
    "tool_choice": Known({"type": None, "name": None, "mode": None, "tools": None}),
    "tools": PRICE,
    "top_logprobs": PASS,
    "top_p": PASS,
    "truncation": Only(("auto", "disabled")),
    "user": PASS,
}


def check(document: dict[str, Any]) -> None:
    """Raises UnsupportedParameter for the first that is refused or unknown, itself or in an object that is known."""
    for name, value in document.items():
        rule = PARAMETERS.get(name, REFUSE)
        if value is None:
            continue
        if rule is REFUSE:
            raise refusal(name)
        if not isinstance(rule, Treatment):
            check_value(name, value, rule)
