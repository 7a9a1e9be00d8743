"""`tollkeeper` with the umask that most systems set: the files that a process creates are readable by all users."""

import os

from tollkeeper.cli import main

os.umask(0o022)
main()
