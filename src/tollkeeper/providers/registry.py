"""All kinds of providers. A new kind takes its own module, its dialect, and one entry here."""

from tollkeeper.providers import anthropic, azure, echo, ollama, openai

KINDS = (openai.KIND, anthropic.KIND, ollama.KIND, azure.KIND, echo.KIND)
"""In this order: the first one that the environment configures serves the calls that name no model."""

KINDS_BY_NAME = {kind.name: kind for kind in KINDS}
