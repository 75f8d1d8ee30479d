"""Floor 5: a chat in the terminal, or over a pipe, with a tenant's assistant or with a shop that recommends.

__main__    the command and its settings
settings    what is asked for on the command line
opening     settings -> a session: model, documents, tenant, shop
tenant      a session with a tenant: answers from its pages, in S0's order (`assistant.pipeline`)
shop        a session with a shop: lists that obey what is said (`dialogue.machine`, `recommenders.flow`)
orders      /why, /sources, /like ...: what can be asked of any session
terminal    prompt_toolkit and rich
lines       lines in, JSON lines out
"""
