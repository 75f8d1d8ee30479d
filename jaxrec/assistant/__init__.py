"""Floor 4: tenants of one's own on a finished personal model: onboarded, asked, saved (`Assistant`)."""
