"""A queued TPU v5e slice of 16 chips (4 hosts), as a spot resource: created again when it is taken away.

    python -m jaxrec.launch.tpu configs/launch/tpu_v5e.py --zone us-east5-a --setup "bash setup.sh" --dry-run \\
        -- train sft sft_qwen --data /mnt/share/chats.jsonl --out /mnt/share/run1 --mesh.fsdp 16 --loop.hang 1800

Not run by us in the cloud; bash and shellcheck read what it prints in the tests.
"""

from jaxrec.launch.tpu import TpuConfig

config = TpuConfig(type="v5litepod-16", runtime="v2-alpha-tpuv5-lite")
