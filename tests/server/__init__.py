"""Tests of the protocols, over real sockets."""
