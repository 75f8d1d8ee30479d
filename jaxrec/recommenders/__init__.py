"""Floor 4: models joined with their objective and the one loop, behind the verbs of `recommender.Recommender`."""
