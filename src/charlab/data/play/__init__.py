"""The embedded corpus: verse plays from a generator whose entropy is known exactly.

A play is a sequence of choices among strings, none of them a prefix of another; the options and their weights depend on
earlier choices. So text and choices correspond one to one, and the probability of a text is known exactly, character by
character. Its nll is the floor: the nll of a model that knows the generator. Such a model has to know, depending on how
far back it looks:

============================  ===========================================================================
characters                    dependency
============================  ===========================================================================
1 to 10                       spelling; "a" or "an"; capitals after a full stop and at a line's beginning
5 to 50                       grammar: a noun's number after its determiner, a verb's form after its subject,
                              also across "of all these kings"; "?" at the end of what began as a question
10 to 50                      meter: a line has ten syllables, alternately unstressed and stressed
40 to 90                      rhyme: every second line rhymes with the previous one, by another word, even
                              across speakers
50 to 1,000                   turns: no character speaks twice in a row; the one addressed ("O gentle Romeo")
                              spoke last; the one announced ("here comes fair Juliet") speaks soon; the one
                              who says farewell leaves
100 to 5,000                  a character's epithet, the city, the wager and the genre's exclamation are fixed
                              within a play; characters return; a play has at least twelve speeches
============================  ===========================================================================

Files: `lexicon` and `words` (what can be said), `grammar` (in which order), `verse` (in which meter and rhyme),
`stage` (by whom), `choice` (at what cost), `loader` (the corpus).
"""
