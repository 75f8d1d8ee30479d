"""SLURM, two to four nodes of eight GPUs: the job goes on with as many as it gets.

    python -m jaxrec.launch.slurm configs/launch/slurm_gpu.py --dry-run \\
        -- train sft sft_qwen --data chats.jsonl --out runs/run1 --mesh.fsdp 8 --loop.hang 1800

Not run by us on a cluster; bash and shellcheck read what it prints in the tests.
"""

from jaxrec.launch.slurm import SlurmConfig

config = SlurmConfig(nodes="2-4", gpus=8, cpus=32, jaxrec=".venv/bin/jaxrec")
