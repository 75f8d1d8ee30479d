"""Floor 5: jobs on clusters: what is handed to Kubernetes, SLURM or Google Cloud, and begun again when a host dies."""
