"""Limits on a real child: memory that is refused, processor time that is halved, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgekit.workflows import control_groups
from edgekit.workflows.device_limits import Limits, forget_file, limited, usable

NOBODY = 65534
ALLOCATE = """
try:
    block = bytearray({size})
    block[::4096] = b"x" * len(block[::4096])
    print("got it")
except MemoryError:
    print("refused")
"""
BURN = """
import os, time
start, cpu = time.perf_counter(), time.process_time()
while time.perf_counter() < start + 1.0:
    pass
print((time.process_time() - cpu) / (time.perf_counter() - start))
"""
CONTROLLERS = control_groups.make()
WRITABLE = set(CONTROLLERS.groups)
CONTROLLERS.remove()


def needs(controller: str) -> pytest.MarkDecorator:
    reason = f"this user cannot make a {controller} control group here"
    return pytest.mark.skipif(controller not in WRITABLE, reason=reason)


class Child:
    """A Python process that waits until it was placed, then runs `code`."""

    def __init__(self, code: str) -> None:
        program = f"input()\n{code}"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self) -> tuple[int, str]:
        output, _ = self.process.communicate("\n", timeout=60)
        return self.process.returncode, output.strip()


def groups() -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob("**/edgekit-limits-*") if path.is_dir()]


def test_a_child_gets_what_the_limit_leaves_and_no_more() -> None:
    for size, fine in ((20_000_000, True), (400_000_000, False)):
        child = Child(ALLOCATE.format(size=size))
        with limited(Limits(memory_bytes=200_000_000)) as limits:
            limits.place(child.process.pid)
            code, output = child.run()
            assert "memory" in limits.enforced
            if fine:
                assert (code, output, limits.killed_for_memory) == (0, "got it", False)
            elif limits.killed_for_memory:
                assert code == -signal.SIGKILL
            else:  # RLIMIT_DATA, where no control group can be made
                assert output == "refused"


@needs("memory")
def test_the_peak_of_the_group_is_what_the_child_took() -> None:
    child = Child(ALLOCATE.format(size=100_000_000))
    with limited(Limits(memory_bytes=300_000_000)) as limits:
        limits.place(child.process.pid)
        assert child.run() == (0, "got it")
        assert 100e6 < limits.group.peak_memory_bytes < 130e6


@needs("memory")
def test_a_file_that_was_forgotten_is_charged_to_who_reads_it(tmp_path: Path) -> None:
    """The trap: pages in the cache belong to the first reader, and cost the second nothing."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20) * 64)
    read = f"data = open({str(path)!r}, 'rb').read(); print(len(data)); del data"
    charged = []
    for forget in (False, True):
        path.read_bytes()
        if forget:
            forget_file(path)
        child = Child(read)
        with limited(Limits(memory_bytes=400_000_000)) as limits:
            limits.place(child.process.pid)
            assert child.run() == (0, str(64 << 20))
            charged.append(limits.group.peak_memory_bytes)
    cached, forgotten = charged
    if forgotten - cached < 10e6:
        pytest.skip("this file system keeps its files in memory (tmpfs)")
    assert forgotten - cached == pytest.approx(64 << 20, rel=0.2)


@needs("cpu")
def test_half_of_a_processor_is_half_of_the_time() -> None:
    child = Child(BURN)
    with limited(Limits(share=0.5)) as limits:
        limits.place(child.process.pid)
        limits.slow_down()
        code, output = child.run()
        assert limits.enforced == {"share": limits.enforced["share"]}
    # Other programs can only take from it, and they have never taken all.
    assert code == 0
    assert 0.05 < float(output) < 0.58


@needs("cpu")
def test_without_the_limit_the_same_child_takes_more() -> None:
    """The control: on a busy machine both are slowed, so the best of some tries counts."""
    best = max(float(Child(BURN).run()[1]) for _ in range(3))
    if best < 0.62:
        pytest.skip(f"other programs leave {best:.0%} of a processor: nothing can be told")
    assert best > 0.62


def test_the_child_runs_on_as_many_processors_as_it_may() -> None:
    child = Child("import os; print(sorted(os.sched_getaffinity(0)))")
    with limited(Limits(processors=1)) as limits:
        limits.place(child.process.pid)
        assert child.run() == (0, str(usable(1)))
        assert "processors" in limits.enforced


def test_no_limit_makes_no_group() -> None:
    with limited(Limits()) as limits:
        assert not limits.group.groups
        child = Child("print('free')")
        limits.place(child.process.pid)
        assert child.run() == (0, "free")
        assert not limits.enforced
        assert not limits.not_enforced


@needs("memory")
def test_what_is_still_inside_is_killed_and_nothing_is_left() -> None:
    child = Child("import time; time.sleep(60)")
    with limited(Limits(memory_bytes=200_000_000, processors=1)) as limits:
        limits.place(child.process.pid)
        folders = [place.folder for place in limits.group.groups.values()]
        assert all(folder.is_dir() for folder in folders)
        assert child.process.poll() is None
    assert child.process.wait(5) == -signal.SIGKILL
    child.process.stdin.close()
    child.process.stdout.close()
    assert not any(folder.exists() for folder in folders)


@needs("memory")
def test_groups_of_a_killed_process_are_swept_and_those_of_a_living_one_are_not() -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from edgekit.workflows import control_groups
        group = control_groups.make()
        print(group.groups["memory"].folder, flush=True)
        time.sleep(60)
        """
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    with maker:
        folder = Path(maker.stdout.readline().strip())
        control_groups.sweep()
        assert folder.is_dir()
        maker.kill()
        maker.wait()
    assert folder.is_dir()
    assert control_groups.sweep() >= 1
    assert not folder.exists()


@needs("memory")
def test_ctrl_c_leaves_no_group() -> None:
    program = textwrap.dedent(
        """
        import signal, subprocess, sys, time
        from edgekit.workflows.device_limits import Limits, limited
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(60)"])
        with limited(Limits(memory_bytes=200_000_000)) as limits:
            limits.place(child.pid)
            print(limits.group.groups["memory"].folder, flush=True)
            time.sleep(60)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as maker:
        folder = Path(maker.stdout.readline().strip())
        assert folder.is_dir()
        maker.send_signal(signal.SIGINT)
        assert maker.wait(20) != 0
    assert not folder.exists()


def test_without_control_groups_the_weaker_limits_are_used_and_said() -> None:
    """As a user who cannot make groups. Forks: the interpreter may not be theirs to start."""
    program = textwrap.dedent(
        f"""
        import json, os, resource, sys
        from edgekit.workflows import control_groups
        from edgekit.workflows.device_limits import Limits, limited
        control_groups.find()  # brings what is imported late, and may not be readable later
        if os.getuid() == 0:
            os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
        go, placed = os.pipe()
        answer, say = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(placed)
            if not os.read(go, 1):
                os._exit(1)
            try:
                block = bytearray(400_000_000)
                os.write(say, b"got it")
            except MemoryError:
                os.write(say, b"refused")
            os._exit(0)
        with limited(Limits(200_000_000, 1, 0.5)) as limits:
            limits.place(child)
            limits.slow_down()
            affinity = sorted(os.sched_getaffinity(child))
            os.write(placed, b"!")
            output = os.read(answer, 100).decode()
            os.waitpid(child, 0)
        print(json.dumps([output, affinity, limits.enforced, limits.not_enforced]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    output, affinity, enforced, not_enforced = json.loads(done.stdout)
    if "control group" in enforced["memory"]:
        pytest.skip("an ordinary user can make control groups here")
    assert output == "refused"
    assert affinity == usable(1)
    assert enforced["memory"].startswith("RLIMIT_DATA")
    assert enforced["processors"] == "sched_setaffinity"
    assert list(not_enforced) == ["share"]


MOUNTINFO_V2 = "30 23 0:26 / {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize("delegated", [True, False])
def test_version_2_makes_a_sibling_where_the_own_group_has_processes(
    tmp_path: Path, delegated: bool
) -> None:
    """The files of a systemd user session, as a tree of plain files: cgroups(7), version 2."""
    mount, proc = tmp_path / "mount", tmp_path / "proc"
    own = mount / "user.slice" / "app.slice" / "term.scope"
    own.mkdir(parents=True)
    proc.mkdir()
    (proc / "cgroup").write_text("0::/user.slice/app.slice/term.scope\n")
    (proc / "mountinfo").write_text(MOUNTINFO_V2.format(mount=mount))
    (own / "cgroup.subtree_control").write_text("")
    (own / "cgroup.controllers").write_text("")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory pids" if delegated else "pids")
    (own.parent / "cgroup.controllers").write_text("cpu memory pids" if delegated else "pids")
    places = control_groups.find(proc)
    expected = {"memory", "cpu"} if delegated else set()
    assert set(places) == expected
    assert all(place.folder == own.parent and place.version == 2 for place in places.values())


def test_a_mount_that_shows_a_part_of_the_hierarchy_is_understood(tmp_path: Path) -> None:
    """In a container the own path can begin above what is mounted."""
    (tmp_path / "cgroup").write_text("5:memory:/docker/abc/inner\n3:cpu,cpuacct:/elsewhere\n")
    line = "40 32 0:30 /docker/abc {mount}/memory rw - cgroup cgroup rw,memory\n"
    other = "41 32 0:31 /docker/abc {mount}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    (tmp_path / "mountinfo").write_text((line + other).format(mount=tmp_path))
    places = control_groups.find(tmp_path)
    assert places["memory"].folder == tmp_path / "memory" / "inner"
    assert places["cpu"].folder == tmp_path / "cpu"
    assert {place.version for place in places.values()} == {1}


def test_version_2_files_get_their_values(tmp_path: Path) -> None:
    place = control_groups.Place(tmp_path, 2)
    group = control_groups.ControlGroup({"memory": place, "cpu": place, "cpuset": place})
    group.limit_memory(123456)
    group.limit_processors([0, 2])
    group.limit_share(0.25)
    assert (tmp_path / "memory.max").read_text() == "123456\n"
    assert (tmp_path / "memory.swap.max").read_text() == "0\n"
    assert (tmp_path / "cpuset.cpus").read_text() == "0,2\n"
    assert (tmp_path / "cpu.max").read_text() == "2500 10000\n"
    group.limit_share(0.02)  # the kernel takes no quota below a millisecond
    assert (tmp_path / "cpu.max").read_text() == "1000 50000\n"
    (tmp_path / "memory.peak").write_text("777\n")
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert (group.peak_memory_bytes, group.memory_kills) == (777, 2)


def test_nothing_is_left_here() -> None:
    control_groups.sweep()
    mine = [path for path in groups() if f"-limits-{os.getpid()}-" in path.name]
    deadline = time.monotonic() + 2
    while mine and time.monotonic() < deadline:
        time.sleep(0.05)
        mine = [path for path in mine if path.exists()]
    assert not mine
