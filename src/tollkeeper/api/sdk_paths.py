"""The paths of the compatible APIs, and which of the two a request is for."""

from starlette.types import Scope

SDK_PREFIX = "/v1/"
MESSAGES_PATH = "/v1/messages"


def is_sdk_request(scope: Scope) -> bool:
    """Whether the request is for one of the compatible APIs."""
    path: str = scope["path"]
    return path.startswith(SDK_PREFIX)


def is_anthropic_request(scope: Scope) -> bool:
    """Whether a request for a compatible API is for Anthropic's. Its SDK names a version in each request."""
    path: str = scope["path"]
    if path == MESSAGES_PATH or path.startswith(f"{MESSAGES_PATH}/"):
        return True
    return any(name == b"anthropic-version" for name, _ in scope["headers"])
