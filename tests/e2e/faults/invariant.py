"""Invariant I, as the soak test checks it, too: see scripts/invariant.py."""

from scripts.invariant import Facts, check, gather

__all__ = ["Facts", "check", "gather"]
