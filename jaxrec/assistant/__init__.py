"""Floor 4: tenants of one's own on a finished personal model: onboarded, asked, saved.

`Assistant` does it all; `fitting.onboard` is what the personalize stage calls.
"""

from jaxrec.assistant.assistant import Assistant as Assistant
