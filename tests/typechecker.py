"""What checks annotations while tests run: beartype, reading `float` as PEP 484 does, so that a whole number is one."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
