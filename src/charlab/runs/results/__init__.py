"""`docs/results.md`, written from the records of real runs, which are kept beside it."""
