"""Start a job on Kubernetes: a JobSet, whose pods all begin again when one host dies.

    jaxrec launch jobset jobset_v5e --image IMAGE --claim CLAIM --dry-run -- train sft sft_sample --out /mnt/share/run1

Needs the JobSet controller in the cluster (jobset.sigs.k8s.io) and an image in which jaxrec is installed. Statuses 75,
76, 137 and 143 begin all pods again, at most `restarts` times; any other failure ends the JobSet.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from jaxrec.config import ConfigError
from jaxrec.launch import job

_NAME = re.compile(
    r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?"
)  # pods' names add to it, and end at 63 letters


@dataclasses.dataclass(frozen=True)
class JobSetConfig:
    """A JobSet of equal hosts."""

    name: str = "jaxrec"
    namespace: str = "default"
    image: str = ""  # with jaxrec in it
    hosts: int = 4
    chips: int = 4  # accelerators a host: TPU chips with a topology, else NVIDIA GPUs; 0: none
    topology: str = ""  # of a TPU slice: "4x4"
    accelerator: str = ""  # GKE's name of it: tpu-v5-lite-podslice, tpu-v6e-slice, nvidia-h100-80gb
    claim: str = ""  # a PersistentVolumeClaim that all hosts mount for writing
    share: str = "/mnt/share"  # where it is mounted; the run's --out lies there
    env: tuple[str, ...] = ()  # NAME=VALUE
    restarts: int = 20
    grace: int = 120  # seconds between SIGTERM and SIGKILL, in which the state is saved
    dry_run: bool = False  # print the JobSet, start nothing


def main(cfg: JobSetConfig, words: Sequence[str]) -> None:
    """Gives the JobSet to kubectl."""
    import yaml

    text = yaml.safe_dump(manifest(cfg, words), sort_keys=False, width=100)
    job.hand_over(text, ["kubectl", "apply", "--filename", "-"], cfg.dry_run)


def manifest(cfg: JobSetConfig, words: Sequence[str]) -> dict[str, Any]:
    """The JobSet (v1alpha2). Raises ConfigError for settings that no cluster could run."""
    check(cfg)
    job.seen_by_all(words, cfg.share)
    hosts = {
        "parallelism": cfg.hosts,
        "completions": cfg.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one pod alone is of no use: all of them begin again
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": "jaxrec",
                        "operator": "NotIn",
                        "values": list(job.AGAIN),
                    },
                }
            ]
        },
        "template": {"spec": pod(cfg, words)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": cfg.name, "namespace": cfg.namespace},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": cfg.restarts,
                "rules": [
                    {
                        "name": "mistakes",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": "hosts", "replicas": 1, "template": {"spec": hosts}}],
        },
    }


def pod(cfg: JobSetConfig, words: Sequence[str]) -> dict[str, Any]:
    """The specification of a host's pod."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    env = [
        {"name": "JAXREC_COORDINATOR", "value": f"{cfg.name}-hosts-0-0.{cfg.name}:{job.PORT}"},
        {"name": "JAXREC_PROCESSES", "value": str(cfg.hosts)},
        {"name": "JAXREC_PROCESS", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        *({"name": name, "value": value} for name, _, value in (e.partition("=") for e in cfg.env)),
    ]
    container: dict[str, Any] = {
        "name": "jaxrec",
        "image": cfg.image,
        "command": ["jaxrec", *words],
        "env": env,
        "volumeMounts": [{"name": "share", "mountPath": cfg.share}],
    }
    if cfg.chips:
        kind = "google.com/tpu" if cfg.topology else "nvidia.com/gpu"
        container["resources"] = {"limits": {kind: str(cfg.chips)}}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": cfg.grace,
        "containers": [container],
        "volumes": [{"name": "share", "persistentVolumeClaim": {"claimName": cfg.claim}}],
    }
    if selector := nodes(cfg):
        spec["nodeSelector"] = selector
    return spec


def nodes(cfg: JobSetConfig) -> dict[str, str]:
    """Which nodes will do, by GKE's labels."""
    if cfg.topology:
        return {
            "cloud.google.com/gke-tpu-accelerator": cfg.accelerator,
            "cloud.google.com/gke-tpu-topology": cfg.topology,
        }
    return {"cloud.google.com/gke-accelerator": cfg.accelerator} if cfg.accelerator else {}


def check(cfg: JobSetConfig) -> None:
    """Raises ConfigError for settings that no cluster could run."""
    if not _NAME.fullmatch(cfg.name):
        raise ConfigError(
            f"--name {cfg.name}: small letters, digits and dashes, at most 42, the first a letter"
        )
    if not cfg.image or not cfg.claim:
        missing = "--image" if not cfg.image else "--claim"
        raise ConfigError(f"{missing} is missing: an image with jaxrec, and a claim that all mount")
    if cfg.hosts < 1 or cfg.chips < 0 or cfg.restarts < 0 or cfg.grace < 1:
        raise ConfigError(
            f"hosts {cfg.hosts}, chips {cfg.chips}, restarts {cfg.restarts}, grace {cfg.grace}: a job has a host"
        )
    for entry in cfg.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", entry, re.DOTALL):
            raise ConfigError(f"--env {entry!r} is not NAME=VALUE")
    if cfg.topology:
        if not re.fullmatch(r"\d+(x\d+)+", cfg.topology) or not cfg.accelerator:
            raise ConfigError(
                f"--topology {cfg.topology} --accelerator {cfg.accelerator or '(missing)'}: a TPU slice has both, as "
                "in 4x4 and tpu-v5-lite-podslice"
            )
        size = math.prod(map(int, cfg.topology.split("x")))
        if size != cfg.hosts * cfg.chips:
            raise ConfigError(
                f"a slice of {cfg.topology} has {size} chips, but {cfg.hosts} hosts of {cfg.chips} have "
                f"{cfg.hosts * cfg.chips}"
            )


if __name__ == "__main__":
    job.run(main, JobSetConfig, __doc__)
