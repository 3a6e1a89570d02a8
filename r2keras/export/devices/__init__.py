"""Proof that a file computes on a device what it computes here."""
