"""Train, resume, record and load runs."""
