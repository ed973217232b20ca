"""Webhooks as the API keeps them: endpoints, secrets, the ledger. ``worker/webhooks`` sends them."""
