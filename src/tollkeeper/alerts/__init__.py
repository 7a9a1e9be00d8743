"""Alerts: quotas that have reached a share of their limit, once for each window and share."""
