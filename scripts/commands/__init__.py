"""The commands of scripts/plantain. Data goes to stdout, everything said about it to stderr."""
