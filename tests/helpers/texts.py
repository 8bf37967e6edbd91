"""Strategies of hypothesis for texts."""

from hypothesis import strategies as st

DECODED = st.one_of(
    st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\0\r\n\t\u0301é你𝔘\ufeff\x85\u2028")), min_size=1),
    st.binary(min_size=1).map(lambda data: data.decode("utf-8", "surrogateescape")),
)
"""Texts as bytes decode to, with bytes that are not UTF-8 as lone surrogates."""
