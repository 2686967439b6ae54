"""Training on several processes is training on one: the same steps, the same widths; nobody waits for one that is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import ranks_step
import torch
from test_same_bytes import model_file

from mcuprune.errors import UsageError
from mcuprune.train import ranks

ROOT = Path(__file__).parents[1]
#: Where ranks compute: those with GPUs meet over NCCL, not over gloo.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """That of one rank, as torchrun sets it."""
    own = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if 0 < torch.cuda.device_count() < size:  # NCCL lets two share a GPU only if it takes them for two machines with one each
        own |= {"LOCAL_RANK": 0, "NCCL_HOSTID": f"machine {rank}"}
    always = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    return {**os.environ, **always, **{name: str(value) for name, value in own.items()}}


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def started(size: int, words: Sequence[str], there: Sequence[int] | None = None) -> list[subprocess.Popen[str]]:
    """Processes of so many ranks. there: those that are started; all by default."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(rank, size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (range(size) if there is None else there)
    ]


def ended(processes: Sequence[subprocess.Popen[str]], within: float = 400) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    until = time.monotonic() + within
    try:
        said = [process.communicate(timeout=max(0.1, until - time.monotonic())) for process in processes]
        return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def prune(folder: Path, size: int, *flags: str) -> list[subprocess.Popen[str]]:
    """A prune of the tiny network on so many ranks; ``-o`` and report lie in the folder."""
    model, places = folder / "net.onnx", ["-o", str(folder / "o.onnx"), "--report", str(folder / "report")]
    if not model.exists():
        model_file(folder, 16, 16)
    words = ["prune", str(model), "--macs", "60%", "--data", str(folder / "data.npz"), "--batch", "8", *places, *flags]
    return started(size, ["-m", "mcuprune", *words])


def states(folder: Path, size: int) -> list[Mapping[str, np.ndarray]]:
    """What every rank of so many has made of the tiny network."""
    for code, _, said in ended(started(size, [str(ROOT / "tests" / "ranks_step.py"), str(folder / str(size))])):
        assert code == 0, said
    return [dict(np.load(folder / f"{size}-{rank}.npz")) for rank in range(size)]


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], alone: Mapping[str, np.ndarray]) -> None:
    assert alone.keys() == one.keys() == other.keys()
    assert len(alone) > 50
    for name, value in alone.items():
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        near = 0.05 if name.startswith("half ") else 2e-4  # eight bits of mantissa
        np.testing.assert_allclose(one[name], value, rtol=10 * near, atol=near, err_msg=name)


@pytest.mark.thorough
def test_two_ranks_make_the_steps_of_one_process(tmp_path: Path) -> None:
    """BatchNormalization, gradients, a teacher, variation, fake quantisation, the gradient of the masks; bit by bit on both."""
    one, other = states(tmp_path, 2)
    assert one.pop("drift") == other.pop("drift") == 1
    same(one, other, ranks_step.both() | ranks_step.halved())


@pytest.mark.slow
def test_three_ranks_make_the_steps_of_one_process(tmp_path: Path) -> None:
    first, second, third = states(tmp_path, 3)
    alone = ranks_step.both() | ranks_step.halved()
    same(first, second, alone)
    same(first, third, alone)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_prune_together_and_one_speaks_and_writes(size: int, device: str, tmp_path: Path) -> None:
    outcome = ended(prune(tmp_path, size, "--epochs", "6", "--device", device))
    assert [code for code, _, _ in outcome] == [0] * size, outcome
    assert "MACs" in outcome[0][1]
    assert [(answer, said) for _, answer, said in outcome[1:]] == [("", "")] * (size - 1)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["data.npz", "net.onnx", "o.onnx", *(f"report/report.{kind}" for kind in ("html", "json", "md"))]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    alone = tmp_path / "alone"
    alone.mkdir()
    assert [code for code, _, _ in ended(prune(alone, 1, "--epochs", "6", "--device", device))] == [0]
    single = json.loads((alone / "report" / "report.json").read_text())
    assert [group["after"] for group in report["groups"]] == [group["after"] for group in single["groups"]]


@pytest.mark.slow
def test_ranks_train_the_whole_network_first_together(tmp_path: Path) -> None:
    """It is the same on all, and so are its answers; what is pruned out of it has the widths that one process gives it."""
    reports = []
    for size in (2, 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        outcome = ended(prune(folder, size, "--train-compute", "60", "--macs", "30%", "--from-scratch"))
        assert [code for code, _, _ in outcome] == [0] * size, outcome
        reports.append(json.loads((folder / "report" / "report.json").read_text()))
    assert [report["training"]["whole"] for report in reports] == [0.3, 0.3]
    assert reports[0]["groups"] == reports[1]["groups"]


@pytest.mark.slow
def test_ranks_have_one_clock(tmp_path: Path) -> None:
    """The length of a training in seconds, and its early end, are as rank 0 counts them."""
    outcome = ended(prune(tmp_path, 2, "--time", "4s", "--patience", "2"))
    assert [code for code, _, _ in outcome] == [0, 0], outcome


@pytest.mark.slow
@pytest.mark.parametrize(("size", "lost"), [(2, 1), (2, 0), (3, 1)])
def test_a_lost_rank_ends_all_with_one_message_and_any_number_goes_on(size: int, lost: int, tmp_path: Path) -> None:
    checkpoint = tmp_path / "o.onnx.checkpoint"
    processes = prune(tmp_path, size, "--epochs", "400", "--device", "cpu")
    until = time.monotonic() + 400
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert checkpoint.exists()
    processes[lost].send_signal(signal.SIGKILL)
    outcome = ended(processes, 200)
    assert outcome[lost][0] == -signal.SIGKILL
    left = [outcome[rank] for rank in range(size) if rank != lost]
    assert [code for code, _, _ in left] == [2] * (size - 1), left
    messages = [line for _, _, said in left for line in said.splitlines() if line.startswith("mcuprune: ")]
    assert len(messages) == 1
    assert "another rank has ended" in messages[0]
    assert "Traceback" not in "".join(said for _, _, said in left)
    assert not (tmp_path / "o.onnx").exists()
    stored = checkpoint.read_bytes()
    for again in (1, 4 - size):
        checkpoint.write_bytes(stored)
        processes = prune(tmp_path, again, "--epochs", "400", "--device", "cpu", "--resume")
        assert [code for code, _, _ in ended(processes)] == [0] * again
        report = json.loads((tmp_path / "report" / "report.json").read_text())
        assert report["cost"]["seconds"] > 0
        assert "started anew" not in " ".join(report["notes"])


@pytest.mark.slow
def test_a_state_of_one_process_is_resumed_by_two_ranks(tmp_path: Path) -> None:
    checkpoint = tmp_path / "o.onnx.checkpoint"
    (process,) = prune(tmp_path, 1, "--epochs", "400")
    until = time.monotonic() + 400
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    ended([process])
    assert [code for code, _, _ in ended(prune(tmp_path, 2, "--epochs", "400", "--resume"))] == [0, 0]
    assert "started anew" not in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--macs", "0.001%"), "can't"),
        (("--batch", "1"), "a batch of 1 is too small for 2 ranks"),
        (("--data", "nothing.npz"), "nothing.npz"),
    ],
)
def test_a_mistake_that_all_make_is_said_once(flags: Sequence[str], message: str, tmp_path: Path) -> None:
    outcome = ended(prune(tmp_path, 2, "--epochs", "2", *flags))
    assert [code for code, _, _ in outcome] == [2, 2]
    lines = [line for _, _, said in outcome for line in said.splitlines() if line.startswith("mcuprune: ")]
    assert len(lines) == 1, lines
    assert message in lines[0]


@pytest.mark.slow
def test_ranks_with_other_options_are_refused(tmp_path: Path) -> None:
    model_file(tmp_path, 16, 16)
    port = free_port()
    words = ["prune", str(tmp_path / "net.onnx"), "--macs", "60%", "--data", str(tmp_path / "data.npz"), "--epochs", "2"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mcuprune", *words, "--seed", str(rank), "-o", str(tmp_path / "o.onnx")],
            env=environment(rank, 2, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outcome = ended(processes)
    assert [code for code, _, _ in outcome] == [2, 2]
    assert "".join(said for _, _, said in outcome).count("have other options, models, data or versions") == 1


@pytest.mark.slow
def test_torchrun_starts_the_ranks(tmp_path: Path) -> None:
    model_file(tmp_path, 16, 16)
    words = ["prune", str(tmp_path / "net.onnx"), "--macs", "60%", "--data", str(tmp_path / "data.npz"), "--epochs", "4"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = subprocess.run(
        [*launcher, "-m", "mcuprune", *words, "--batch", "8", "-o", str(tmp_path / "o.onnx")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.onnx").exists()
    assert done.stderr.count("epoch   4.0 of") == 1


@pytest.mark.slow
def test_on_digits_two_ranks_learn_as_much_as_one_process(tmp_path: Path) -> None:
    """Five seeds: the mean of int8 accuracy, on some 360 test images, differs by no more than seeds do."""
    model, found = ROOT / "models" / "resnet8_digits.onnx", {1: [], 2: []}  # figures by how many ranks
    for seed in range(5):
        for size, figures in found.items():
            report = tmp_path / f"{size}-{seed}"
            words = [
                "prune",
                str(model),
                "--sram",
                "46%",
                "--flash",
                "25%",
                "--macs",
                "24%",
                "--data",
                "digits",
                "--epochs",
                "6",
            ]
            more = ["--seed", str(seed), "-o", f"{report}.onnx", "--report", str(report)]
            outcome = ended(started(size, ["-m", "mcuprune", *words, *more]), 900)
            assert [code for code, _, _ in outcome] == [0] * size, outcome
            figures.append(json.loads((report / "report.json").read_text())["after"]["accuracy_int8"])
    print(found)
    apart = np.mean(found[1]) - np.mean(found[2])
    assert abs(apart) <= 2 * (np.var(found[1], ddof=1) / 5 + np.var(found[2], ddof=1) / 5) ** 0.5 + 0.005, found


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    ],
)
def test_without_other_ranks_nothing_is_joined(told: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with ranks.joined():
        assert (ranks.size(), ranks.first(), ranks.part(7), ranks.share(7)) == (1, True, slice(0, 7), 1.0)
    ranks.refuse_several("sweep")


@pytest.mark.parametrize("told", [{"RANK": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": "x"}])
def test_an_environment_that_makes_no_rank_is_refused(told: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**environment(0, 2, 1), **told}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="make no rank"), ranks.joined():
        pass


def test_a_sweep_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="sweep: 2 processes"):
        ranks.refuse_several("sweep")


def test_ranks_that_nobody_answers_are_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(0, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"rank 0 of 2 can't meet the others at 127\.0\.0\.1"), ranks.joined(0.5):
        pass


#: Joins, and sums something again and again; the rank that is named ends in the midst of it as if its machine were lost.
_LOSING = """
import os, sys, time
from mcuprune import console
from mcuprune.errors import McupruneError
from mcuprune.train import ranks
ranks._SILENCE = 0.5
try:
    with ranks.joined(float(sys.argv[1])):
        import torch
        ranks.summed(torch.ones(3))  # all have joined
        time.sleep(0.5)
        if ranks._group.rank == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        while True:
            ranks.summed(torch.ones(3))
except McupruneError as error:
    console.say(str(error))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_lost_rank_leaves_one_message_and_no_frames_of_others(lost: int) -> None:
    """Whether the ranks' notes were with it or not: what torch's C++ side says of its sockets helps nobody."""
    outcome = ended(started(2, ["-c", _LOSING, "60", str(lost)]), 60)
    said = [line for line in outcome[1 - lost][2].splitlines() if "waits for the others" not in line]
    assert len(said) == 1, said
    assert "another rank has ended" in said[0]


@pytest.mark.thorough
@pytest.mark.parametrize("there", [0, 1])
def test_a_rank_that_waits_for_others_says_so_and_for_how_long(there: int) -> None:
    ((_, _, said),) = ended(started(2, ["-c", _LOSING, "3", "9"], [there]), 60)
    first, last = said.splitlines()
    assert re.fullmatch(rf"mcuprune: rank {there} of 2 waits for the others at 127\.0\.0\.1:\d+, for 3 s at most", first)
    assert f"rank {there} of 2 can't meet the others" in last


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_parts_are_the_whole(size: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, shares = [], []
    for rank in range(size):
        monkeypatch.setattr(ranks, "_group", ranks._Group(rank, size))
        parts.append(list(range(count))[ranks.part(count)])
        shares.append(ranks.share(count))
    assert sum(shares) == pytest.approx(1)
    if count < size:
        assert parts == [list(range(count))] * size
    else:
        assert [index for part in parts for index in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert [len(part) / count for part in parts] == shares
