"""Write `docs/results.md` from the records of real runs."""
