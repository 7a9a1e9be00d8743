"""What a caller can send in place of a parameter that is refused: one sentence for each name, in all wire formats."""

from collections.abc import Mapping

_LEAVE_OUT = "Leave it out."
_SEND_ITEMS = "Send the earlier items in input: nothing is kept at the provider."
_OWN_TOOLS = "Declare tools that your program runs, and send their results."
_OWN_MODEL = "Leave it out: the model of this call answers alone. Call another model in a request of its own."
_NOT_TAKEN = "Leave it out: this model does not take it."

HINTS: Mapping[str, str] = {
    # what would be kept at the provider
    "store": "Send store: false. Nothing is kept at the provider.",
    "previous_response_id": _SEND_ITEMS,
    "conversation": _SEND_ITEMS,
    "prompt": "Send the text of the template in instructions and input.",
    "background": "Send background: false, and stream: true for a long answer.",
    "thread": "Send all earlier messages in messages.",
    "container": _OWN_TOOLS,
    "user_profile_id": _LEAVE_OUT,
    "workspace_id": _LEAVE_OUT,
    # several answers
    "n": "Send n: 1, and a request for each further answer.",
    "best_of": "Send best_of: 1, and a request for each further answer.",
    # what the provider would run and bill
    "tools": _OWN_TOOLS,
    "mcp_servers": _OWN_TOOLS,
    "web_search_options": _OWN_TOOLS,
    "moderation": _OWN_MODEL,
    "fallbacks": _OWN_MODEL,
    "fallback_credit_token": _LEAVE_OUT,
    "billing_policy": _LEAVE_OUT,
    "access_programs": _LEAVE_OUT,
    "prediction": _LEAVE_OUT,
    "compaction": "Leave it out, and send a shorter input.",
    "context_management": "Leave out what compacts the input, and send a shorter input.",
    "service_tier": "Leave it out, or send auto. Other tiers have other prices.",
    "speed": "Leave it out, or send standard. Other speeds have other prices.",
    "inference_geo": "Leave it out, or send global. Other places have other prices.",
    "prompt_cache_retention": "Leave it out, or send in_memory. Other caches have other prices.",
    "prompt_cache_options": "Leave it out, or send a ttl of the default price without prewarm.",
    "cache_control": "Leave it out, or send {type: ephemeral}.",
    "truncation": "Leave it out, or send auto or disabled.",
    "betas": "Send them in the header anthropic-beta.",
    # sound
    "audio": "Leave it out, and ask for text.",
    "modalities": "Leave it out, or send a list with text alone.",
    "messages.audio": "Leave it out, and send the transcript as content.",
    # other names, other values
    "functions": "Send the functions as tools.",
    "function_call": "Send tool_choice.",
    "tool_choice": "Send auto, none or required, or name one tool.",
    "output_format": "Send output_config.format alone.",
    "echo": "Send echo: false, and put the prompt before the answer yourself.",
    "suffix": "Leave it out, and describe in the prompt what follows the answer.",
    "encoding_format": "Send float or base64.",
    "input": "Send messages with texts and pictures, and the calls and results of your own tools.",
    "messages.content": "Send texts and pictures.",
    "messages.tool_calls": "Send calls of functions and custom tools.",
    "tools.defer_loading": "Leave it out, and declare only the tools that are needed.",
    "include": "Leave out what is not input or output of this response.",
    "reasoning": "Send an effort, a summary, or nothing.",
    "text": "Leave text.verbosity out: this model does not take it.",
    # what the wire format of a model's provider may lack
    "logprobs": _NOT_TAKEN,
    "top_logprobs": _NOT_TAKEN,
    "logit_bias": _NOT_TAKEN,
    "verbosity": _NOT_TAKEN,
    "top_k": _NOT_TAKEN,
    "top_p": _NOT_TAKEN,
    "temperature": _NOT_TAKEN,
    "seed": _NOT_TAKEN,
    "stop": _NOT_TAKEN,
    "stop_sequences": _NOT_TAKEN,
    "presence_penalty": _NOT_TAKEN,
    "frequency_penalty": _NOT_TAKEN,
    "reasoning_effort": _NOT_TAKEN,
    "output_config.effort": _NOT_TAKEN,
    "dimensions": _NOT_TAKEN,
}
