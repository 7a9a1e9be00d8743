"""What a guarded call costs, next to a bare forwarder in front of the same upstream. `make bench` runs it."""
