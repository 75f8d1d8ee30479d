"""Floor 2: people as their events tell them: profiles, tastes that fade, rhythms, personas; no model."""
