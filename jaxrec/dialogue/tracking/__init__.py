"""Floor 3: what a user wants of services that bring a schema, turn by turn: goal and slot values, by light models.

    spans        which words of a turn are values (a tagger of tokens)
    candidates   which values a slot could take now, and what speaks for each
    goals        which goal is meant
    tracker      all three, fitted on dialogues of other services and followed through a conversation

All are linear models of scikit-learn over hashed words of the turn crossed with words of the *schema*, so that they
work for services that they never saw.
"""
