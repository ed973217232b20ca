"""What only containers need: the setup service and the health check."""
