"""A JobSet on two nodes of eight NVIDIA H100.

    python -m jaxrec.launch.jobset configs/launch/jobset_h100.py --image IMAGE --claim CLAIM --dry-run \\
        -- train sft sft_qwen --data /mnt/share/chats.jsonl --out /mnt/share/run1 --mesh.fsdp 8 --loop.hang 1800

Not run by us on a cluster. Other clouds than Google's: --accelerator "" and a node selector of their own.
"""

from jaxrec.launch.jobset import JobSetConfig

config = JobSetConfig(hosts=2, chips=8, accelerator="nvidia-h100-80gb")
