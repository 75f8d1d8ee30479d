"""Floor 3: what a model need not know of a person, and what is kept of one: names, numbers and addresses are masked
before a model reads them and restored for their owner.

spans       pieces of a text that say who somebody is
documents   numbers and addresses by their form and check digits: Russian documents, cards, e-mails
analyzer    Presidio over a blank spaCy pipeline: nothing is downloaded
names       names and places by two small taggers, English and Russian
masking     placeholders: one conversation of one tenant, restored to whose words they stand for
filter      all finders together, loaded when they are used

No jax, and none of these libraries, is brought in by importing the room.
"""
