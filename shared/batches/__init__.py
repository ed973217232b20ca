"""Batches: many jobs of one request, made all or none, and what they have in common."""
