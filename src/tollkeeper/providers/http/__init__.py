"""HTTP/1.1 to a provider: our own client and aiohttp, behind one interface."""
