"""Policies: everything that turns observations into chunks of actions."""
