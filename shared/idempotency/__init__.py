"""Idempotency keys: a request that is sent again under its key is answered as it was the first time."""
