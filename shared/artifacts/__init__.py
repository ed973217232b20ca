"""Pictures that jobs take in and give out."""
