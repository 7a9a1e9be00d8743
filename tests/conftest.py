"""What every test may use. The parts are plug-ins, each in a file of its own."""

pytest_plugins = ("support.hang_report", "support.databases")
