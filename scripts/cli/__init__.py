"""One module for each executable in scripts/."""
