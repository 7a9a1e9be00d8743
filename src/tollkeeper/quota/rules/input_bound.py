"""How many tokens a call can take at most, before it is made.

A byte-pair token covers at least one byte, so the bytes of what is sent bound the tokens of the text in it; chat
templates add a few per message (OpenAI's cookbook counts 3 to 4) and something per call.
"""

TOKENS_PER_MESSAGE = 8


def input_bound(text_tokens: int, messages: int, overhead: int) -> int:
    """A sound upper bound of the input tokens. `text_tokens` is a tokenizer's count, or the bytes of the request."""
    return text_tokens + TOKENS_PER_MESSAGE * messages + overhead
