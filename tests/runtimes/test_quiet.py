"""Libraries are quiet: import, load and one turn make no internet socket and leave no file.

The judge is the kernel: a filter of this test's own ends the process at the first internet socket
that it, a thread or a child of it asks for. No switch of anybody's is trusted, and CI is unset,
because some libraries are quiet only there.
"""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.privacy.quiet import QUIET_ENVIRONMENT

# socket, io_uring_setup and AUDIT_ARCH_ of the two machines that edgekit is made for
CALLS = {"x86_64": (41, 425, 0xC000003E), "aarch64": (198, 425, 0xC00000B7)}
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in CALLS, reason="needs seccomp"
)

# seccomp(2): another machine's call, io_uring and socket(2 or 10) end the process. Each line is
# opcode, lines to skip if equal, lines to skip if not, operand.
TRAP = """
import ctypes, struct, sys
socket_call, ring_call, machine = {numbers}
load, equal, end = 0x20, 0x15, 0x06
allow, kill = 0x7FFF0000, 0x80000000
lines = [
    (load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, kill),
    (load, 0, 0, 0), (equal, 5, 0, ring_call), (equal, 0, 3, socket_call),
    (load, 0, 0, 16), (equal, 2, 0, 2), (equal, 1, 0, 10),
    (end, 0, 0, allow), (end, 0, 0, kill),
]
code = b"".join(struct.pack("<HBBI", *line) for line in lines)

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(lines), code)), 0, 0) == 0
sys.path[:] = {path}
"""
TURN = """
from pathlib import Path
from edgekit.artifact import Artifact
from runtimes.base import Message, Sampling
from runtimes.load import load
runtime = load(Artifact.open(Path({artifact!r})), threads=1, in_process={in_process})
answer = runtime.generate([Message("user", "hi")], Sampling(max_tokens=4, ignore_stop_tokens=True))
assert sum(chunk.tokens for chunk in answer) == 4
runtime.close()
"""
CLI = """
sys.argv = ["edgekit", *{words}]
from edgekit.cli import main
main()
"""
# urllib3 asks at import whether there is IPv6, by a socket that it binds to ::1 and closes: nothing
# is sent. It is the one exception, so it is told the answer.
SERVER_SIDE = """
import socket
socket.has_ipv6 = False
from edgekit.privacy import quiet
quiet.apply()
import huggingface_hub, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained({checkpoint!r})
assert tokenizer("hi")["input_ids"]
transformers.AutoConfig.from_pretrained({checkpoint!r})
"""


class Machine:
    """A user's machine as a library sees it: an empty home, cache, temporary and working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("home", "cache", "tmp", "work", "edgekit"):
            (folder / name).mkdir()
        kept = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        self.environment = kept | {
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TMPDIR": str(folder / "tmp"),
            "EDGEKIT_HOME": str(folder / "edgekit"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, code: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        trap = TRAP.format(numbers=CALLS[platform.machine()], path=sys.path)
        return subprocess.run(
            [sys.executable, "-c", trap + code],
            env=self.environment,
            cwd=self.folder / "work",
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def new_files(self) -> list[str]:
        """Return what was left outside EDGEKIT_HOME."""
        found = (p for p in self.folder.rglob("*") if p.is_file() or p.is_symlink())
        names = [p.relative_to(self.folder).as_posix() for p in found]
        return [name for name in names if not name.startswith("edgekit/")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    assert not set(QUIET_ENVIRONMENT) & set(made.environment)
    assert "CI" not in made.environment
    return made


@pytest.fixture(
    scope="module",
    params=[
        ("gguf", "q8_0"),
        ("onnx", "int8"),
        pytest.param(("torch", "int8"), marks=pytest.mark.slow),
    ],
    ids=["gguf", "onnx", "torch"],
)
def artifact(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    format_name, scheme = request.param
    out = tmp_path_factory.mktemp("quiet") / format_name
    recipe = Recipe(name="tiny", format=format_name, scheme=scheme)
    convert(Checkpoint.open(tiny_checkpoint), recipe, out, progress=NoProgress())
    return out


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_judge_sees_a_socket(machine: Machine, family: str) -> None:
    done = machine.run(f"import socket; socket.socket(socket.{family})")
    assert done.returncode == -signal.SIGSYS
    fine = machine.run("import socket; a, b = socket.socketpair(); print('fine')")
    assert (fine.returncode, fine.stdout) == (0, "fine\n"), fine.stderr


def test_the_judge_sees_a_child_and_a_file(machine: Machine) -> None:
    child = "import socket; socket.socket()"
    code = f"import subprocess, sys; print(subprocess.call([sys.executable, '-c', {child!r}]))"
    assert machine.run(code).stdout == f"{-signal.SIGSYS}\n"
    machine.run("from pathlib import Path; (Path.home() / '.deviceid').write_text('me')")
    assert machine.new_files() == ["home/.deviceid"]


@pytest.mark.parametrize("in_process", [False, True], ids=["worker", "in process"])
def test_an_engine_is_quiet(machine: Machine, artifact: Path, in_process: bool) -> None:
    done = machine.run(TURN.format(artifact=str(artifact), in_process=in_process))
    assert done.returncode == 0, done.stderr
    assert machine.new_files() == []


COMMANDS = {
    "run": ["run", "{artifact}", "hi", "--system", "be short"],
    "chat": ["chat", "{artifact}", "--plain"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_quiet(machine: Machine, artifact: Path, command: str) -> None:
    """The whole program, without a lock: it is quiet by itself, and not only where it has to."""
    words = [word.format(artifact=artifact) for word in COMMANDS[command]]
    words += ["--threads", "1", "--context", "128", "--max-tokens", "4", "--temperature", "0"]
    machine.environment["EDGEKIT_PRIVATE"] = "0"
    done = machine.run(CLI.format(words=words), typed="hi\n")
    assert done.returncode == 0, done.stderr
    assert command == "run" or re.search(
        r"^\[[1-4] tokens?, first token", done.stderr, re.MULTILINE
    )
    assert machine.new_files() == []
    stored = {path.name for path in (machine.folder / "edgekit").rglob("*") if path.is_file()}
    assert stored <= ({"chats.db", "chats.db.lock"} if command == "chat" else set())


@pytest.mark.slow
def test_the_server_side_is_quiet(machine: Machine, tiny_checkpoint: Path) -> None:
    done = machine.run(SERVER_SIDE.format(checkpoint=str(tiny_checkpoint)))
    assert done.returncode == 0, done.stderr
    assert machine.new_files() == []


def test_the_chat_s_screen_is_quiet(machine: Machine) -> None:
    done = machine.run("import textual.app, textual.widgets, tui.app")
    assert done.returncode == 0, done.stderr
    assert machine.new_files() == []
