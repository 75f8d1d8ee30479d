"""Floor 3: what is said to people and how good it is: prompts, explanations, rewards, judges.

Text models come in as callables (`complete`, `embed`): this room knows no model and imports no jax.
"""
