"""Pictures in a request: each by its `https:` address, or sent along as a `data:` URL.

Nothing else: other addresses could be of the provider's own network, and other data is no picture, and has no bound.
"""

from tollkeeper.dialects.parameters import refusal

ADDRESS, SENT_ALONG = "https://", "data:image/"


def bytes_sent(url: str, parameter: str) -> int:
    """How much of a URL is the picture itself. Raises UnsupportedParameter, naming the parameter, for no picture."""
    if url.startswith(SENT_ALONG):
        return len(url.partition(",")[2])
    if not url.startswith(ADDRESS):
        raise refusal(parameter)
    return 0
