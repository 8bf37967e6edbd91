"""Tools that only this repository needs."""
