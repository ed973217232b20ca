"""Providers: the catalogue of models and one driver for each way of reaching them."""
