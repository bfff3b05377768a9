"""Logs, metrics and health: consumers of outcomes, never in a decision path."""
