"""A JobSet on a TPU v5e slice of 16 chips: 4 hosts of 4, each at /mnt/share.

    python -m jaxrec.launch.jobset configs/launch/jobset_v5e.py --image IMAGE --claim CLAIM --dry-run \\
        -- train sft sft_qwen --data /mnt/share/chats.jsonl --out /mnt/share/run1 --mesh.fsdp 16 --loop.hang 1800

Not run by us on a cluster; what it prints is checked against the schemas of JobSet and of Kubernetes by the tests.
"""

from jaxrec.launch.jobset import JobSetConfig

config = JobSetConfig(hosts=4, chips=4, topology="4x4", accelerator="tpu-v5-lite-podslice")
