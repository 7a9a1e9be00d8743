"""Tests with other vendors' clients in their default configuration."""
