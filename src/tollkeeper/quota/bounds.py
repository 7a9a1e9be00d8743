"""How many tokens a call can take at most, before it is made.

A byte-pair token covers at least one byte, so the bytes of what is sent bound the tokens of the text in it; chat
templates add a few per message (OpenAI's cookbook counts 3 to 4) and something per call.
"""

TOKENS_PER_MESSAGE = 8
OVERHEAD = 64


def input_bound(body_bytes: int, messages: int, overhead: int = OVERHEAD) -> int:
    """A sound upper bound of the input tokens of a request whose body has this many bytes."""
    return body_bytes + TOKENS_PER_MESSAGE * messages + overhead


def exact_input(text_tokens: int, messages: int, overhead: int = OVERHEAD) -> int:
    """The same bound from a tokenizer's count of the text."""
    return text_tokens + TOKENS_PER_MESSAGE * messages + overhead
