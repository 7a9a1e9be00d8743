"""The running server over a real socket, in front of a real upstream process, on both databases."""
