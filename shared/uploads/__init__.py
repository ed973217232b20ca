"""Files that clients gave, to be used by jobs: received in slices, kept once for each content, gone when unused."""
