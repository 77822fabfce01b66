"""`--launcher`: real processes on this machine, on two nodes, and a job for a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opendllm.core.foundation.cores import usable_cores
from opendllm.core.launching.launcher import Launcher, check_launcher, parse_launcher
from opendllm.core.launching.local import threads_each
from opendllm.core.launching.slurm import batch_script
from opendllm.core.manifest.schema import Launch
from opendllm.registries.errors import UserError
from tests.children import by_rank, runs

Curve = Callable[[Path], list[float]]
PLATFORM = [sys.executable, "-m", "opendllm.core"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*command: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=ENVIRONMENT | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that the process does; its end is the end of waiting."""
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_processes_started_here_save_when_asked_and_say_how_to_go_on(
    commands: Any, workspace: Path, curve: Curve, sent: int
) -> None:
    arguments = ["run", "short.yaml", "--only", "train", "--set", "train.steps=20"]
    launched = start(*PLATFORM, *arguments, "--launcher", "local:2", cwd=workspace)
    run = workspace / "runs" / "short"
    log = run / "default" / "train.jsonl"
    until(lambda: log.is_file() and log.read_text().count("\n") > 2, launched)
    launched.send_signal(sent)
    said, errors = launched.communicate()
    assert launched.returncode == 128 + sent, errors
    [(step, command)] = re.findall(r"stopped after step (\d+) of 20, which is saved; resume with: (.*)", said)
    assert shlex.split(command) == ["platform", *arguments, "--launcher", "local:2"]
    about = json.loads((run / "default" / "checkpoints" / f"step-{step}" / "provenance.json").read_text())
    assert about["processes"] == 2
    resumed = commands.run(*arguments, "--launcher", "torchrun", cwd=workspace, ranks=2)
    assert resumed.codes == [0, 0], resumed.said
    alone = commands.run(*arguments, "--set", "output=alone", cwd=workspace)
    assert alone.codes == [0], alone.said
    assert curve(run) == pytest.approx(curve(workspace / "alone"), rel=1e-4)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_and_is_named(workspace: Path) -> None:
    arguments = ["run", "short.yaml", "--set", "train.steps=4000"]
    launched = start(*PLATFORM, *arguments, "--launcher=local:2", cwd=workspace)
    checkpoint = workspace / "runs" / "short" / "default" / "checkpoints" / "step-2"
    until(checkpoint.is_dir, launched)
    workers = by_rank(psutil.Process(launched.pid))
    workers["1"].send_signal(signal.SIGKILL)
    _, errors = launched.communicate()
    assert launched.returncode == 1
    assert "error: rank 1 was killed by SIGKILL" in errors
    assert not [child for child in workers.values() if runs(child)]
    ledger = json.loads((checkpoint.parents[1] / "checkpoints.json").read_text())
    assert ledger


@pytest.fixture
def failing_plugin(workspace: Path) -> dict[str, str]:
    """An installed package with an objective that fails on one rank; variables that make it seen."""
    site = workspace / "site"
    site.mkdir()
    (site / "failing.py").write_text(
        "import os\n"
        "from opendllm.registries import ObjectiveOptions, hookimpl\n"
        "class Options(ObjectiveOptions):\n"
        "    pass\n"
        "def build(options):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise ZeroDivisionError('on purpose')\n"
        "    from opendllm.registries.discovery import installed_plugins\n"
        "    return installed_plugins().objectives.get('mdlm').build()\n"
        "@hookimpl\n"
        "def register_objectives(register):\n"
        "    register('failing', options=Options, target='failing:build', summary='fails')\n"
    )
    installed = site / "failing-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: failing\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[opendllm]\nfailing = failing\n")
    return {"PYTHONPATH": str(site)}


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_run_with_its_own_traceback(
    workspace: Path, failing_plugin: dict[str, str]
) -> None:
    arguments = ["run", "short.yaml", "--set", "train.objective.name=failing", "--launcher", "local:2"]
    launched = start(*PLATFORM, *arguments, cwd=workspace, **failing_plugin)
    _, errors = launched.communicate()
    assert launched.returncode == 1, errors
    reported = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert all(line.startswith("error: rank 1: ") for line in reported)
    for part in ("Traceback (most recent call last):", "failing.py", "ZeroDivisionError: on purpose"):
        assert any(part in line for line in reported), errors
    assert "rank 0" not in errors


def test_a_global_batch_that_does_not_divide_is_refused_before_anything_starts(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    arguments = ["run", "short.yaml", "--set", "train.global_batch_size=3", "--launcher=local:2"]
    assert run_here(*arguments, monkeypatch=monkeypatch) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "error: train.global_batch_size 3 does not divide by 2 processes"
    assert not (workspace / "runs").exists()


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: 10.77.0.1 and 10.77.0.2."""
    ip = shutil.which("ip")
    if ip is None or os.geteuid():
        pytest.skip("network namespaces need iproute2's `ip` and root")
    names = tuple(f"opendllm-{os.getpid()}-{end}" for end in "ab")

    def do(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([ip, *words], capture_output=True, text=True, check=False)

    try:
        for name in names:
            made = do("netns", "add", name)
            if made.returncode:
                pytest.skip(f"this machine makes no network namespace: {made.stderr.strip()}")
        first, second = names
        ends = ("cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        cable = do("link", "add", *ends)
        if cable.returncode:
            pytest.skip(f"this machine makes no virtual cable: {cable.stderr.strip()}")
        for number, name in enumerate(names, start=1):
            do("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            do("-n", name, "link", "set", "cable", "up")
            do("-n", name, "link", "set", "lo", "up")
        yield first, second
    finally:
        for name in names:
            do("netns", "del", name)


@pytest.mark.slow
def test_two_nodes_meet_and_compute_what_one_process_does(
    commands: Any, workspace: Path, curve: Curve, two_nodes: tuple[str, str]
) -> None:
    (workspace / "nodes.yaml").write_text(
        "extends: short.yaml\n"
        "launch:\n"
        "  nodes: 2\n"
        "  processes_per_node: 1\n"
        "  rendezvous: {endpoint: 10.77.0.1:29400, timeout: 120}\n"
        "  environment: {GLOO_SOCKET_IFNAME: cable}\n"
        "train: {deepspeed: {zero_optimization: {stage: 2}}}\n"
    )
    arguments = ["run", "nodes.yaml", "--only", "train"]
    nodes = [
        start("ip", "netns", "exec", node, *PLATFORM, *arguments, "--launcher", "local", cwd=workspace)
        for node in two_nodes
    ]
    for node in nodes:
        _, errors = node.communicate()
        assert node.returncode == 0, errors
    about = workspace / "runs" / "short" / "default" / "checkpoints" / "step-6" / "provenance.json"
    assert json.loads(about.read_text())["processes"] == 2
    alone = commands.run(*arguments, "--set", "launch=null", "--set", "output=alone", cwd=workspace)
    assert alone.codes == [0], alone.said
    assert curve(workspace / "runs" / "short") == pytest.approx(curve(workspace / "alone"), rel=1e-5)


@pytest.fixture
def cluster(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with an sbatch that writes down what it is given."""
    folder = workspace / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f"#!{sys.executable}\n"
        "import json, os, pathlib, sys\n"
        "pathlib.Path(os.environ['GIVEN']).write_text(json.dumps(sys.argv[1:]))\n"
        "if 'NO_SLOT' in os.environ: sys.exit('sbatch: error: invalid partition')\n"
        "print('Submitted batch job 17')\n"
    )
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GIVEN", str(workspace / "given.json"))
    monkeypatch.chdir(workspace)
    return folder


def run_here(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    from opendllm.core.cli.main import main

    monkeypatch.setattr(sys, "argv", ["platform", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


SLURM = """
extends: short.yaml
train: {global_batch_size: 16}
launch:
  nodes: 2
  processes_per_node: 8
  environment: {NCCL_SOCKET_IFNAME: ib0}
  slurm: {partition: gpu, account: mine, time: "12:00:00", options: {gpus-per-node: 8}}
"""


def test_a_job_is_written_and_submitted(
    cluster: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "slurm.yaml").write_text(SLURM)
    arguments = [
        "run",
        "slurm.yaml",
        "--set",
        "description='two words'",
        "--set",
        "train.global_batch_size=16",
    ]
    assert run_here(*arguments, "--launcher", "slurm", monkeypatch=monkeypatch) == 0
    assert "Submitted batch job 17" in capsys.readouterr().out
    script = workspace / "runs" / "short" / "slurm.sh"
    assert json.loads((workspace / "given.json").read_text()) == [str(script.relative_to(workspace))]
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n")
    for option in (
        "partition=gpu", "account=mine", "time=12:00:00", "gpus-per-node=8", "nodes=2",
        "ntasks-per-node=1", "job-name=short", "signal=TERM@300",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in text

    # What the nodes then run: this script under bash, with a srun that writes down its words.
    for name, body in (
        ("scontrol", "print('node-7\\nnode-8')"),
        ("srun", "import json, sys; open('ran.json', 'w').write(json.dumps(sys.argv[1:]))"),
    ):
        (cluster / name).write_text(f"#!{sys.executable}\n{body}\n")
        (cluster / name).chmod(0o755)
    environment = os.environ | {"SLURM_JOB_ID": "1002", "SLURM_JOB_NODELIST": "node-[7-8]"}
    subprocess.run(["bash", script], env=environment, check=True)
    assert json.loads((workspace / "ran.json").read_text()) == [
        "--kill-on-bad-exit=1", *PLATFORM, *arguments, "--launcher", "local:8",
        "--set", "launch.rendezvous.endpoint=node-7:29502",
    ]  # fmt: skip


def test_what_a_job_is_given_may_hold_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as sbatch and bash read it; a task gets as many cores as the job asks for."""
    folder = tmp_path / "my runs, 100%"
    folder.mkdir()
    monkeypatch.chdir(folder)
    launch = Launch.model_validate(
        {"nodes": 1, "slurm": {"account": "the lab", "options": {"comment": "it's mine", "cpus-per-task": 8}}}
    )
    text = batch_script("short", folder / "run", launch, 2, ["run", "my manifest.yaml"])
    options = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert [f"--output={tmp_path}/my runs, 100%%/run/slurm-%j.log"] in options
    assert ["--account=the lab"] in options
    assert ["--comment=it's mine"] in options
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "srun").write_text('#!/bin/bash\necho "$PWD|$SRUN_CPUS_PER_TASK|${*: -5}"\n')
    (commands / "srun").chmod(0o755)
    variables = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "8"}
    (tmp_path / "slurm.sh").write_text(text)
    done = subprocess.run(
        ["bash", tmp_path / "slurm.sh"], env=variables, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{folder}|8|opendllm.core run my manifest.yaml --launcher local:2\n"


def test_a_refused_job_is_an_error(
    cluster: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_SLOT", "1")
    assert run_here("run", "short.yaml", "--launcher", "slurm", monkeypatch=monkeypatch) == 2
    assert "sbatch refused runs/short/slurm.sh: sbatch: error: invalid partition" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert run_here("run", "short.yaml", "--launcher", "slurm", monkeypatch=monkeypatch) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


def test_processes_share_the_cores_of_the_job_not_the_machines() -> None:
    cores = os.sched_getaffinity(0)
    assert threads_each(1) == usable_cores()
    assert threads_each(10_000) == 1
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert threads_each(1) == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_what_a_launcher_may_be() -> None:
    assert parse_launcher("local") == Launcher("local")
    assert parse_launcher("local:2") == Launcher("local", 2)
    assert parse_launcher("slurm:8") == Launcher("slurm", 8)
    assert parse_launcher("torchrun") == Launcher("torchrun")
    for wrong in ("", "local:0", "local:", "torchrun:2", "mpi"):
        with pytest.raises(UserError, match="write local, local:2"):
            parse_launcher(wrong)


def test_a_launch_section_without_a_launcher_and_a_launcher_that_is_not_there_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match="`launch` has no effect without a launcher"):
        check_launcher(None, Launch(nodes=2))
    with pytest.raises(UserError, match="torchrun is for processes that torchrun started"):
        check_launcher(Launcher("torchrun"), None)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    check_launcher(None, Launch(nodes=2))
    check_launcher(Launcher("torchrun"), None)


def test_several_nodes_need_a_place_to_meet(workspace: Path, platform: Any) -> None:
    done = platform("run", "short.yaml", "--set", "launch.nodes=2", "--launcher", "local:1", cwd=workspace)
    assert done.returncode == 2
    assert "give launch.rendezvous.endpoint, HOST:PORT of the first node" in done.stderr
