"""The `tollkeeper` command whose server runs verifications as `slow_command`."""

from tollkeeper.administration import commands
from tollkeeper.cli import main

if __name__ == "__main__":
    commands._PROGRAM = "import runpy; runpy.run_module('journeys.support.slow_command', run_name='__main__')"
    main()
