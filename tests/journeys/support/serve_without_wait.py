"""The `tollkeeper` command that does not wait at its stop until the calls that it cancels are settled."""

from tollkeeper import app
from tollkeeper.cli import main

if __name__ == "__main__":
    app.CANCELLED_CALLS_TIMEOUT_S = 0
    main()
