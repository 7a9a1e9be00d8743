"""The parameters of a response, each in its class. What stands inside of them is looked at in `items`."""

from typing import Any

from tollkeeper.dialects.parameters import DROP, OURS, PASS, PRICE, REFUSE, Only, Rule, refusal

PARAMETERS: dict[str, Rule] = {
    "access_programs": REFUSE,  # what the operator's account may do is not the caller's to choose
    "background": Only((False,), DROP),
    "context_management": REFUSE,  # compaction writes tokens that no limit bounds
    "conversation": REFUSE,
    "image": PASS,
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
    "reasoning": PASS,
    "safety_identifier": PASS,
    "service_tier": Only(("auto", "default")),
    "store": Only((False,), OURS),
    "stream": OURS,
    "stream_options": OURS,
    "temperature": PASS,
    "text": PASS,
    "tool_choice": PASS,
    "tools": PRICE,
    "top_logprobs": PASS,
    "top_p": PASS,
    "truncation": Only(("auto", "disabled")),
    "user": PASS,
}


def check(document: dict[str, Any]) -> None:
    """Raises UnsupportedParameter for the first that is refused or unknown."""
    for name, value in document.items():
        rule = PARAMETERS.get(name, REFUSE)
        if value is None:
            continue
        if rule is REFUSE or (isinstance(rule, Only) and value not in rule.values):
            raise refusal(name)
