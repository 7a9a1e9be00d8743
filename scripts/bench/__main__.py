"""Entry point of `python scripts/bench`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the parent folder, so that this folder is the package `bench`

from bench.command import main  # noqa: E402

sys.exit(main())
