"""Several server processes on one port: their sockets, the process that supervises them, and their metrics together."""
