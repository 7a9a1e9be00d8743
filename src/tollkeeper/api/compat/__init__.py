"""The surfaces of others: whoever has an OpenAI or an Anthropic SDK can point it here."""

from tollkeeper.api.compat.anthropic import COUNT_TOKENS, MESSAGES
from tollkeeper.api.compat.openai import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES

DOORS = (CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS, MESSAGES, COUNT_TOKENS)
