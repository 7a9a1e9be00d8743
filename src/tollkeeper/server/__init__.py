"""The protocols that the server speaks, with limits on what a client may send."""
