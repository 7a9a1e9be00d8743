"""Tests of the running server over a real socket, with a fake provider as a second process, on both databases."""
