"""The former name of `charlab.runs.identity`, until its last importers have moved."""

from charlab.runs.identity import fingerprint as fingerprint
from charlab.runs.identity import load_corpus as load_corpus
from charlab.runs.identity import runs_of as runs_of
