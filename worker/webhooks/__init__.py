"""Sending webhooks, in beat: ``feed`` makes deliveries out of events, ``sender`` sends them, ``dispatcher`` runs both."""
