"""Where two models differ, character by character, in plain Python."""

from fractions import Fraction


def describe(text, index, position, train, before=""):
    """Return the parts that one character of a text belongs to, by what they are split by."""
    whole = before + text
    at = len(before) + index
    return (position_part(position), place(whole, at), kind(whole[at]), seen(whole[max(0, at - 3) : at], train))


def position_part(position):
    first = 1
    while position >= 2 * first:
        first *= 2
    return first


def is_in_word(text, at):
    if text[at].isalpha():
        return True
    around = 0 < at < len(text) - 1 and text[at - 1].isalpha() and text[at + 1].isalpha()
    return text[at] in "'’" and around


def place(text, at):
    if not is_in_word(text, at):
        return "not in a word"
    number = 1
    while at - number >= 0 and is_in_word(text, at - number):
        number += 1
    return {1: "first letter", 2: "second letter", 3: "third letter"}.get(number, "later letters")


def kind(character):
    if character == "\n":
        return "newline"
    if character.isspace():
        return "space"
    if character.isalpha():
        return "capital" if character.isupper() else "letter"
    return "digit" if character.isdigit() else "punctuation"


def seen(context, train):
    if len(context) < 3:
        return "never"
    count = sum(train[i : i + 3] == context for i in range(len(train)))
    bounds = {1: "never", 10: "1 to 9 times", 100: "10 to 99 times", 1000: "100 to 999 times"}
    return next((name for bound, name in bounds.items() if count < bound), "1,000 times or more")


def exact_sum(values):
    """Return the sum of floats without any rounding."""
    return sum(map(Fraction, map(float, values)), Fraction(0))


def widest(nats, length):
    """Return the start of the stretch with the largest sum, in either direction."""
    return max(range(len(nats) - length + 1), key=lambda start: abs(exact_sum(nats[start : start + length])))
