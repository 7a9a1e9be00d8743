"""Helpers of the journeys: the server process, its users and endpoints, and checks of its ledger from outside."""
