"""Hours of use in minutes: a server under mixed calls, hang-ups and faults, whose memory and books are watched."""
