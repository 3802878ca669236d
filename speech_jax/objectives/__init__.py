"""Losses as pure functions, and how they combine (`mix`)."""
