"""Errors in the format of Anthropic's API: `{"type": "error", "error": {type, message}}`."""

from tollkeeper import errors
from tollkeeper.api.compat.sdk_errors import status_and_headers
from tollkeeper.api.errors import RenderedError, cause_of, message_of
from tollkeeper.dialects import messages
from tollkeeper.dialects.parameters import unsupported

_ANTHROPIC_NAMES = {"stop": "stop_sequences", "reasoning_effort": "output_config.effort"}
"""Options whose name in the messages API differs from ours, which is that of chat completions."""


def render(error: errors.TollkeeperError) -> RenderedError:
    cause = _with_anthropic_name(cause_of(error))
    status, headers = status_and_headers(cause)
    parameter = cause.parameter if isinstance(cause, errors.UnsupportedParameter) else None
    return status, messages.write_error(messages.error_type(status), _message(cause), parameter), headers


def stream_error(error: errors.TollkeeperError) -> bytes:
    """The event for a stream that fails after its first chunk."""
    return messages.write_stream_error(error.code, _message(error))


def _message(error: errors.TollkeeperError) -> str:
    """The message for people. That of a context overflow is Anthropic's own, by which clients recognise it."""
    if not isinstance(error, errors.ContextOverflow):
        return message_of(error)
    if error.tokens is None:
        return "prompt is too long"
    return f"prompt is too long: {error.tokens} tokens > {error.max_tokens} maximum"


def _with_anthropic_name(error: errors.TollkeeperError) -> errors.TollkeeperError:
    """Name an option that the model's wire format lacks as the caller's request names it."""
    if isinstance(error, errors.UntranslatableOption) and error.parameter in _ANTHROPIC_NAMES:
        return unsupported(_ANTHROPIC_NAMES[error.parameter])
    return error
