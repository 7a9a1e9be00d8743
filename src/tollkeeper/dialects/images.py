"""Images in a request: an `https:` URL, or a `data:` URL with the image in it.

Other URLs are refused: they could point into the provider's own network, and other data has no bound in tokens.
"""

from tollkeeper.dialects.parameters import unsupported

HTTPS_PREFIX, DATA_PREFIX = "https://", "data:image/"


def inline_image_bytes(url: str, parameter: str) -> int:
    """The size of the image data in the URL, in bytes as sent (base64); 0 for an `https:` URL.

    Raises UnsupportedParameter, naming `parameter`, for any other URL.
    """
    if url.startswith(DATA_PREFIX):
        return len(url.partition(",")[2])
    if not url.startswith(HTTPS_PREFIX):
        raise unsupported(parameter)
    return 0
