"""Benchmarks: charlab next to the plainest code that does the same, alternating between the two in fresh processes.

The code that charlab is compared with is in `tests/references/`, so benchmarks run from a checkout.
"""
