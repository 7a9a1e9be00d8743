"""Where the events of calls go besides the log: a file, or an HTTP endpoint of the operator. Off the event loop."""
