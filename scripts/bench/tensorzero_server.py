"""TensorZero's gateway from its wheel: `tensorzero_server.py CONFIG URL_FILE`, run by the Python that has the wheel.

It writes the gateway's base URL to URL_FILE: the gateway chooses its port.
"""

import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace


def main() -> None:
    """Serve until SIGTERM."""
    from tensorzero import patch_openai_client

    warnings.simplefilter("ignore", DeprecationWarning)  # the wheel's only way to serve OpenAI's API
    client = patch_openai_client(SimpleNamespace(), config_file=sys.argv[1], async_setup=False)
    partial = Path(f"{sys.argv[2]}.part")
    partial.write_text(client.base_url)
    partial.rename(sys.argv[2])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pause()


if __name__ == "__main__":
    main()
