"""Start a job on a queued TPU slice of Google Cloud, and again when a host or the slice dies.

    jaxrec launch tpu tpu_v5e --zone us-east5-a --setup "bash setup.sh" --dry-run \\
        -- train sft sft_sample --out /mnt/share/run1

Needs gcloud. What is handed to bash stays in the foreground and must live as long as the job: start it in tmux or on a
small machine. The slice stays when the job is done, and costs until it is deleted (the last line says how).
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence

from jaxrec.config import ConfigError
from jaxrec.launch import job

_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"


@dataclasses.dataclass(frozen=True)
class TpuConfig:
    """A queued TPU slice."""

    name: str = "jaxrec-1"
    zone: str = ""
    type: str = "v5litepod-16"
    runtime: str = "v2-alpha-tpuv5-lite"
    spot: bool = True  # cheap, and may be taken away at any time
    setup: str = ""  # what each host runs once when it is new: mount the share, install jaxrec[tpu]
    jaxrec: str = "jaxrec"  # the command, as the hosts find it: ~/jaxrec/bin/jaxrec
    share: str = "/mnt/share"  # that all hosts mount; the run's --out lies there
    restarts: int = 20  # of the job on one slice, and of the slice
    dry_run: bool = False  # print the script, start nothing


def main(cfg: TpuConfig, words: Sequence[str]) -> None:
    """Gives the script to bash."""
    job.hand_over(script(cfg, words), ["bash", "-s"], cfg.dry_run)


def host_script(cfg: TpuConfig, words: Sequence[str]) -> str:
    """What each host runs: finds the others, and begins again as long as that helps."""
    line = shlex.join(words)
    return f"""#!/bin/bash
ask() {{ curl -sf -H Metadata-Flavor:Google {_METADATA}/"$1"; }}
endpoints=$(ask worker-network-endpoints) || exit 1
JAXREC_PROCESS=$(ask agent-worker-number) || exit 1
JAXREC_PROCESSES=$(tr ',' '\\n' <<< "$endpoints" | grep -c .)
JAXREC_COORDINATOR=$(cut -d, -f1 <<< "$endpoints" | cut -d: -f3):{job.PORT}
export JAXREC_PROCESS JAXREC_PROCESSES JAXREC_COORDINATOR
for attempt in $(seq 0 {cfg.restarts}); do
    {cfg.jaxrec} {line}
    status=$?
    case "$status" in
        {job.pattern(job.AGAIN)}) echo "attempt $attempt ended with status $status: again" >&2 ;;
        *) exit "$status" ;;
    esac
    sleep 10
done
exit "$status"
"""


def script(cfg: TpuConfig, words: Sequence[str]) -> str:
    """The script that creates the slice, and again when it is taken away. Raises ConfigError for what is missing."""
    check(cfg)
    job.seen_by_all(words, cfg.share)
    spot = " --spot" if cfg.spot else ""
    where = f"{cfg.name} --zone {cfg.zone}"
    return f"""#!/bin/bash
set -u
state() {{
    gcloud compute tpus queued-resources describe {where} --format='value(state.state)' 2>/dev/null
}}
on_all() {{ gcloud compute tpus tpu-vm ssh {where} --worker=all --command="$1"; }}
delete() {{ gcloud compute tpus queued-resources delete {where} --force --quiet; }}
create() {{
    gcloud compute tpus queued-resources create {cfg.name} --node-id {where} \\
        --accelerator-type {cfg.type} --runtime-version {cfg.runtime}{spot} || exit 1
    until [ "$(state)" = ACTIVE ]; do
        case "$(state)" in FAILED | SUSPENDED) return 1 ;; esac
        sleep 30
    done
    on_all {shlex.quote(cfg.setup)} || {{ echo "--setup failed, see above" >&2; exit 1; }}
}}
run=$(cat <<'HOST'
{host_script(cfg, words)}HOST
)
for attempt in $(seq 0 {cfg.restarts}); do
    if [ "$(state)" != ACTIVE ]; then
        [ -z "$(state)" ] || delete
        create || continue
    fi
    if on_all "$run"; then
        echo "done; the slice costs until it is gone: gcloud compute tpus queued-resources delete {where} --force"
        exit 0
    fi
    # Hosts begin again by themselves: what comes here with a slice that is still there is a mistake.
    [ "$(state)" != ACTIVE ] || exit 1
    echo "the slice is $(state): attempt $attempt is over, another one is created" >&2
done
exit 1
"""


def check(cfg: TpuConfig) -> None:
    """Raises ConfigError for what is missing or could not stand in a command."""
    if not cfg.zone or not cfg.setup:
        missing = "--zone" if not cfg.zone else "--setup"
        raise ConfigError(
            f"{missing} is missing: where the slice lies, and what makes a new host ready (mount the share, install "
            "jaxrec[tpu])"
        )
    if cfg.restarts < 0:
        raise ConfigError(f"--restarts {cfg.restarts}: not less than 0")
    for word in (cfg.name, cfg.zone, cfg.type, cfg.runtime):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", word):
            raise ConfigError(f"{word!r} is no name of Google Cloud's")


if __name__ == "__main__":
    job.run(main, TpuConfig, __doc__)
