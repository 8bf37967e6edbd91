"""The embedded corpus: verse plays from a generator whose entropy is known exactly.

A play is a sequence of choices, each among strings none of which begins another; what can be chosen, and with which
weights, depends on the strings chosen before. So text and choices correspond one to one, and the probability of a
text, character by character, is known without rounding. It is the floor: the nll of a model that knows the
generator. What such a model has to know, by how far back it has to look:

============================  ===========================================================================
characters                    dependency
============================  ===========================================================================
1 to 10                       spelling; "a" or "an"; capitals after a full stop and at a line's beginning
5 to 50                       grammar: a noun's number after its determiner, a verb's form after its subject,
                              also across "of all these kings"; "?" at the end of what began as a question
10 to 50                      meter: a line is full after ten syllables, unstressed and stressed in turn
40 to 90                      rhyme: each second line of a play rhymes with the one before, but not with
                              itself, even where another character speaks it
50 to 1,000                   turns: nobody answers himself; who is addressed ("O gentle Romeo") spoke last;
                              who is announced ("here comes fair Juliet") speaks soon; who bids farewell leaves
100 to 5,000                  a character's epithet, the city, the wager and the genre's exclamation stay the
                              same in a play; characters come back; a play has twelve speeches at least
============================  ===========================================================================

Files: `lexicon` and `words` (what can be said), `grammar` (in which order), `verse` (in which meter and rhyme),
`stage` (by whom), `choice` (what it costs), `generator` (drawing and reading plays), `loader` (the corpus).
"""
