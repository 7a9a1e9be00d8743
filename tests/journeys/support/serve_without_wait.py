"""The `tollkeeper` command that stops after a second, and does not wait until the calls that it cancels are settled."""

from tollkeeper import app
from tollkeeper.cli import main, serving

if __name__ == "__main__":
    serving.GRACE_S = 1
    app.CANCELLED_CALLS_TIMEOUT_S = 0
    main()
