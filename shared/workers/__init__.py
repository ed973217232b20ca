"""Worker processes that are alive, by the rows that they write."""
