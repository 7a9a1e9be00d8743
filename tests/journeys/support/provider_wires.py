"""A catalog in which one upstream is several providers, each on another wire; one provider cannot be reached."""

from pathlib import Path
from typing import NamedTuple

from journeys.support.processes import ReservedPort
from journeys.upstream.handle import Upstream

CATALOG = """
closed = true
default = "on-chat"

[providers.chatty]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"
wires = ["chat/completions", "embeddings"]

[providers.responding]
kind = "openai"
base_url = "{upstream}/v1"
api_key_env = "OPENAI_API_KEY"
wires = ["responses"]
wire = "responses"

[providers.messaging]
kind = "anthropic"
base_url = "{upstream}"
api_key_env = "OPENAI_API_KEY"

[providers.llama]
kind = "ollama"
base_url = "{upstream}"

[providers.gone]
kind = "openai"
base_url = "http://127.0.0.1:{unused_port}/v1"
api_key_env = "OPENAI_API_KEY"

[models.on-chat]
provider = "chatty"

[models.on-responses]
provider = "responding"

[models.on-messages]
provider = "messaging"

[models.on-ollama]
provider = "llama"

[models.in-numbers]
provider = "chatty"

[models.silent]
provider = "chatty"
bills_unseen = true

[models.gone]
provider = "gone"
"""


SHORT_DEADLINES = {
    "TIMEOUT_SECONDS": "8",
    "TOLLKEEPER_STREAM_IDLE_SECONDS": "4",
    "TOLLKEEPER_STREAM_TOTAL_SECONDS": "12",
}
"""Settings with short deadlines."""


class Wire(NamedTuple):
    """A provider's wire: a model that is called over it, and the path to which its requests go."""

    model: str
    path: str


CHAT = Wire("on-chat", "/v1/chat/completions")
RESPONSES = Wire("on-responses", "/v1/responses")
MESSAGES = Wire("on-messages", "/v1/messages")
OLLAMA = Wire("on-ollama", "/api/chat")
UNSEEN_BILLING = Wire("silent", "/v1/chat/completions")
UNREACHABLE = Wire("gone", "")
EMBEDDINGS = Wire("in-numbers", "/v1/embeddings")
WIRES = (CHAT, RESPONSES, MESSAGES, OLLAMA)


def write_catalog(folder: Path, upstream: Upstream, unused_port: ReservedPort) -> dict[str, str]:
    """Write the catalog to a file of `folder`. Returns the settings of a server that uses it."""
    path = folder / "catalog.toml"
    path.write_text(CATALOG.format(upstream=upstream.anthropic_url, unused_port=unused_port.number))
    return {
        "TOLLKEEPER_CATALOG": str(path),
        "TOLLKEEPER_BREAKER_FAILURES": "0",
        "TOLLKEEPER_RATE_LIMIT_AI": "off",
        "TOLLKEEPER_EMBEDDING_MODEL": EMBEDDINGS.model,
        "OPENAI_BASE_URL": upstream.base_url,
    }
