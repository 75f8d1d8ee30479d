"""Floor 3: what a model need not know of a person, and what is kept of one: names, numbers and addresses are masked
before a model reads them and restored for their owner; who is forgotten goes with all that bears their name.

spans       pieces of a text that say who somebody is
documents   numbers and addresses by their form and check digits: Russian documents, cards, e-mails
analyzer    Presidio over a blank spaCy pipeline: nothing is downloaded
names       names and places by two small taggers, English and Russian
masking     placeholders: one conversation of one tenant, restored to whose words they stand for
filter      all finders together, loaded when they are used
forget      everything that is kept of somebody, gone; nothing of anybody else
whose       how what lies on disk says whose it is
traces      somebody's rows of a file; banks: their rows of p and of Deltas

No jax, and none of these libraries, is brought in by importing the room.
"""
