from charlab.configuration.messages import nearest, similar


def test_the_most_similar_words_are_named_first() -> None:
    known = ["transformer", "bigram", "bigram_embedding"]
    assert nearest("transfomer", known) == "; did you mean transformer?"
    assert nearest("BIGRAM", known) == "; did you mean bigram?"
    assert nearest("bigam", known, "model.") == "; did you mean model.bigram?"


def test_without_similar_words_the_known_ones_are_named() -> None:
    assert nearest("x", ["b", "a"]) == "; known are a and b."
    assert nearest("x", ["b"]) == "; known is b."
    assert nearest("x", [f"name{i:02}" for i in range(14)]).endswith("name10, name11 and 2 more.")
    assert nearest("x", []) == "."
    assert similar("x", ["a", "b"]) == "."


def test_folders() -> None:
    known = ["part1/bigram", "part1/transformer", "quickstart"]
    assert nearest("bigrm", known) == "; did you mean part1/bigram?"
    assert nearest("part1", known) == "; known are part1/bigram and part1/transformer."
