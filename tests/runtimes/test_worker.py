"""The worker process: it streams, is cancelled, crashes, outlives nobody and keeps its pipe clean.

The model in it is the toy of toy_engine.py, which prints to stdout and dies on demand.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import EngineFailure, InputError, UsageError
from runtimes import client
from runtimes.base import Message, Sampling
from runtimes.client import WorkerRuntime
from runtimes.quiet import QUIET_ENVIRONMENT
from runtimes.wire import FrameReader, FrameWriter, WireError

TOY = Path(__file__).with_name("toy_engine.py")
PROGRAM = f"""
import runpy
from runtimes.worker import serve
serve(lambda request: runpy.run_path({str(TOY)!r})["open_toy"](request))
"""
Start = Callable[..., WorkerRuntime]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[WorkerRuntime] = []

    def begin(**options: Any) -> WorkerRuntime:
        running.append(WorkerRuntime(options, PROGRAM))
        return running[-1]

    yield begin
    for runtime in running:
        runtime.close()


def ask(runtime: WorkerRuntime, text: str = "hi", **sampling: Any) -> str:
    return "".join(c.text for c in runtime.generate([Message("user", text)], Sampling(**sampling)))


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until_dead(pid: int, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.02)


def test_everything_goes_through_the_pipe(start: Start, tmp_path: Path) -> None:
    runtime = start(script="Héllo 🙂")
    assert (runtime.context_length, runtime.threads) == (64, 1)
    assert ask(runtime) == "Héllo 🙂"
    chunks = list(runtime.generate([Message("user", "hi")], Sampling(stop=("l",), seed=1)))
    assert ("".join(c.text for c in chunks), chunks[-1].finish) == ("Hé", "stop")
    assert (chunks[0].prompt_tokens, chunks[0].reused_tokens) == (3, 2)
    assert runtime.tokenize("é<start>", special=True) == [195, 169, 257]
    assert runtime.detokenize([195, 169, 257]) == "é<start>"
    assert runtime.render([Message("user", "x")]) == "x<start>"
    list(runtime.complete([1, 2, 3], Sampling(max_tokens=1)))
    assert runtime.save_state(tmp_path / "s") == 3
    assert runtime.load_state(tmp_path / "s") == 3
    assert runtime.peak_rss_bytes > 10e6


def test_scores_come_through_shared_memory(start: Start) -> None:
    runtime = start()
    short = runtime.score([1, 2])
    kept = short.copy()
    long = runtime.score(list(range(60)))
    assert (long.shape, long.dtype) == ((60, 258), np.float32)
    assert np.array_equal(long[:1], runtime.score([0]))
    assert not np.array_equal(kept, short) or short.base is not None  # still mapped, no crash
    assert np.array_equal(runtime.score([1, 2]), kept)
    assert runtime.score([]).shape == (0, 258)
    with pytest.raises(InputError, match="65 tokens do not fit"):
        runtime.score([0] * 65)
    with pytest.raises(InputError, match="token 258"):
        runtime.score([258])


def test_errors_keep_their_type_message_and_hint(start: Start) -> None:
    runtime = start(template="{{ raise_exception('no') }}")
    with pytest.raises(InputError, match="of toy fails: no") as caught:
        ask(runtime)
    assert caught.value.hint
    with pytest.raises(UsageError, match="temperature"):
        list(runtime.complete([1], Sampling(temperature=-1)))
    with pytest.raises(InputError, match="prompt has 64 tokens"):
        list(runtime.complete([1] * 64, Sampling()))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug in the engine"):
        list(runtime.complete([ord("?")], Sampling()))
    assert runtime.tokenize("still here") == list(b"still here")


def test_loading_errors_come_through() -> None:
    broken = PROGRAM.replace('["open_toy"](request)', '["nothing"]')
    with pytest.raises(RuntimeError, match="KeyError"):
        WorkerRuntime({}, broken)


def test_a_killed_worker_is_explained(start: Start) -> None:
    runtime = start(token_s=0.01)
    answer = runtime.complete([1, 2], Sampling(max_tokens=60))
    next(answer)
    os.kill(runtime.worker_pid, signal.SIGKILL)
    with pytest.raises(EngineFailure, match=r"killed by SIGKILL; it last said: .*stderr") as caught:
        list(answer)
    assert "memory" in caught.value.hint
    assert "\x1b" not in caught.value.message
    for _ in range(2):
        with pytest.raises(EngineFailure, match="SIGKILL"):
            runtime.tokenize("x")


def test_an_abort_in_the_engine_is_explained(start: Start) -> None:
    runtime = start()
    with pytest.raises(EngineFailure, match="killed by SIGABRT") as caught:
        list(runtime.complete([ord("!")], Sampling()))
    assert "hostile" in caught.value.hint


def test_a_worker_that_ends_while_loading_is_explained() -> None:
    with pytest.raises(EngineFailure, match=r"ended by itself \(exit code 7\); it last said: bye"):
        WorkerRuntime({}, "import sys\nprint('bye', file=sys.stderr)\nraise SystemExit(7)")


def test_a_worker_that_talks_nonsense_is_stopped() -> None:
    with pytest.raises(EngineFailure, match="makes no sense"):
        WorkerRuntime({}, "import time\nprint('A' * 100, flush=True)\ntime.sleep(60)")


@pytest.mark.parametrize(
    "reply",
    [
        '{"id": 0, "result": null}',
        '{"id": 0, "result": {"context_length": -1, "vocabulary_size": 2, "threads": 1}}',
        '{"id": 0, "result": {"context_length": "4", "vocabulary_size": 2, "threads": 1}}',
    ],
)
def test_a_worker_that_lies_about_its_model_is_refused(reply: str) -> None:
    program = f"import sys, time\nsys.stdout.buffer.write(({len(reply)}).to_bytes(4, 'little')"
    program += f" + {reply.encode()!r})\nsys.stdout.flush()\ntime.sleep(60)"
    with pytest.raises(EngineFailure, match="makes no sense"):
        WorkerRuntime({}, program)


def test_cancel_while_decoding_and_while_reading_the_prompt(start: Start) -> None:
    runtime = start(token_s=0.02)
    answer = runtime.complete([1, 2], Sampling(max_tokens=60))
    next(answer)
    begin = time.monotonic()
    answer.close()
    assert time.monotonic() - begin < 0.25
    assert list(answer) == []
    long_prompt = runtime.complete([1] * 60, Sampling())
    threading.Timer(0.2, long_prompt.close).start()
    begin = time.monotonic()
    assert list(long_prompt) == []
    assert time.monotonic() - begin < 0.8  # the prompt takes 1.2 s
    assert next(runtime.complete([1, 2, 3], Sampling(max_tokens=1))).tokens == 1


def test_an_answer_that_is_dropped_stops(start: Start) -> None:
    runtime = start(token_s=0.02)
    for _ in runtime.complete([1, 2], Sampling(max_tokens=60)):
        break
    begin = time.monotonic()
    assert runtime.tokenize("x") == [120]
    assert time.monotonic() - begin < 0.5


def test_a_new_question_ends_the_answer_before(start: Start) -> None:
    runtime = start(token_s=0.005)
    first = runtime.complete([1, 2], Sampling(max_tokens=60))
    next(first)
    assert len(list(runtime.complete([5], Sampling(max_tokens=3)))) == 3
    assert list(first) == []


def test_nothing_is_asked_before_the_first_chunk(start: Start) -> None:
    runtime = start()
    first = runtime.complete([1], Sampling(max_tokens=2))
    second = runtime.complete([2], Sampling(max_tokens=2))
    assert len(list(second)) == len(list(first)) == 2
    never = runtime.complete([3], Sampling())
    never.close()
    assert list(never) == []


def test_a_worker_that_will_not_stop_is_killed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STOP_GRACE_S", 0.3)
    runtime = start(token_s=0.1, deaf=True)
    answer = runtime.complete([1] * 60, Sampling())
    ended: list[object] = []
    reading = threading.Thread(target=lambda: ended.extend(answer))
    reading.start()
    time.sleep(0.3)
    answer.close()
    reading.join(timeout=3)
    assert not reading.is_alive()
    assert ended == []
    wait_until_dead(runtime.worker_pid)
    with pytest.raises(EngineFailure, match="went on for"):
        runtime.tokenize("x")


def test_close_from_another_thread_ends_everything(start: Start) -> None:
    runtime = start(token_s=0.02)
    answer = runtime.complete([1, 2], Sampling(max_tokens=60))
    next(answer)
    threading.Timer(0.1, runtime.close).start()
    begin = time.monotonic()
    assert len(list(answer)) < 60
    assert time.monotonic() - begin < 2
    wait_until_dead(runtime.worker_pid)
    runtime.close()
    with pytest.raises(EngineFailure, match="the model was closed"):
        runtime.tokenize("x")


def test_a_template_that_never_ends_is_killed_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "RENDER_TIMEOUT_S", 0.3)
    hang = f"""
import runpy, time
from runtimes import worker

def open_hanging(request):
    runtime = runpy.run_path({str(TOY)!r})["open_toy"](request)
    runtime.render = lambda messages: time.sleep(60)
    return runtime

worker.serve(open_hanging)
"""
    runtime = WorkerRuntime({}, hang)
    try:
        with pytest.raises(InputError, match="did not come to an end in"):
            ask(runtime)
        wait_until_dead(runtime.worker_pid)
    finally:
        runtime.close()


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    script = f"""
import sys, os
sys.path[:] = {sys.path!r}
from runtimes.client import WorkerRuntime
from runtimes.base import Sampling
runtime = WorkerRuntime({{"token_s": 0.05}}, {PROGRAM!r})
answer = runtime.complete([1, 2], Sampling(max_tokens=60))
next(answer)
print(runtime.worker_pid, flush=True)
os.kill(os.getpid(), 9)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.returncode == -signal.SIGKILL, output.stderr
    wait_until_dead(int(output.stdout))


def test_the_worker_is_quiet_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    spy = f"""
import os, runpy, sys
from runtimes import quiet, worker

def applied_early(apply=quiet.apply):
    assert not {{"numpy", "jinja2", "llama_cpp", "onnxruntime"}} & set(sys.modules)
    apply()

def open_quietly(request):
    assert quiet.QUIET_ENVIRONMENT.items() <= os.environ.items()
    return runpy.run_path({str(TOY)!r})["open_toy"](request)

quiet.apply = applied_early
worker.serve(open_quietly)
"""
    assert QUIET_ENVIRONMENT["ORT_DISABLE_TELEMETRY"] == "1"
    WorkerRuntime({}, spy).close()


def test_ctrl_c_is_left_to_the_parent(start: Start) -> None:
    runtime = start(script="ok")
    os.kill(runtime.worker_pid, signal.SIGINT)
    assert ask(runtime) == "ok"


def test_frames_survive_any_cut_and_refuse_giants() -> None:
    out, into = os.pipe()
    reader, writer = FrameReader(out), FrameWriter(into)
    with pytest.raises(TimeoutError):
        reader.read(0.01)
    threading.Thread(target=writer.write, args=({"text": "🙂" * 100_000},)).start()
    frame = reader.read(5)
    assert frame is not None
    assert len(frame["text"]) == 100_000
    os.write(into, b"\xff\xff\xff\xff")
    with pytest.raises(WireError, match="4294967295 bytes"):
        reader.read()
    writer.close()
    os.close(out)
    with pytest.raises(OSError, match="Bad file"):
        writer.write({})
