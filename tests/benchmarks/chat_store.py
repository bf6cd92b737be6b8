"""What the chat store costs with 10,000 messages, plain and encrypted.

    python tests/benchmarks/chat_store.py [--messages N] [--chat-length N] [--folder DIR]

Prints milliseconds. "open" is without the key derivation, which is its own line; "list" is
`chats()` right after it. The aims: open and list together under 300 ms, a first search under
200 ms, a later one under 20 ms. The texts are pseudo-random words, about 350 characters each.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from tui.conversation import Answer, Chat, Entry, Question, new_id
from tui.store import vault
from tui.store.chats import ChatStore

LATIN = ["kettle", "boil", "egg", "water", "model", "answer", "pressure", "quick", "brown", "fox"]
OTHER = ["запрос", "問題", "straße", "naïve"]  # in every fourth text
SAVES = 50
FAST = vault.Cost(memory_kib=64, passes=1, lanes=1)


def text(chance: random.Random) -> str:
    """Return about 350 characters."""
    words = LATIN + OTHER if chance.random() < 0.25 else LATIN
    return " ".join(chance.choice(words) for _ in range(58))


def entries(chance: random.Random, count: int) -> Iterator[Entry]:
    """Yield questions and answers in turns."""
    parent = None
    for _ in range(count // 2):
        question = Question(new_id(), parent, text(chance))
        answer = Answer(new_id(), question.id, text(chance), "stop", "model", 58, 0.1, 9.5)
        parent = answer.id
        yield question
        yield answer


def milliseconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def measure(path: Path, passphrase: str | None, messages: int, chat_length: int) -> None:
    """Fill a store and print its figures."""
    chance = random.Random(7)
    store = ChatStore.open(path, passphrase, cost=FAST)
    for number in range(messages // chat_length):
        store.save_all(Chat(new_id(), f"chat {number}"), entries(chance, chat_length))
    store.save_entry(store.chats()[-1].id, Question(new_id(), None, "a needle in a haystack"))
    store.close()
    opened: list[ChatStore] = []
    print(f"  file     {path.stat().st_size / 1e6:8.1f} MB")
    took = milliseconds(lambda: opened.append(ChatStore.open(path, passphrase)))
    print(f"  open     {took:8.1f} ms")
    store = opened[0]
    print(f"  list     {milliseconds(store.chats):8.1f} ms, {len(store.chats())} chats")
    chat_id = store.chats()[0].id
    print(f"  load     {milliseconds(lambda: store.load(chat_id)):8.1f} ms")
    for name, words in (("rare", "needle"), ("common", "kettle"), ("phrase", '"quick brown"')):
        first = milliseconds(lambda words=words: store.search(words))
        warm = median(milliseconds(lambda words=words: store.search(words)) for _ in range(9))
        print(f"  search   {first:8.1f} ms, then {warm:.1f} ms: {name}")
    saves = [
        milliseconds(lambda: store.save_entry(chat_id, Question(new_id(), None, text(chance))))
        for _ in range(SAVES)
    ]
    print(f"  save     {median(saves):8.1f} ms, worst of {SAVES}: {max(saves):.1f} ms")
    took = milliseconds(lambda: store.delete_chat(store.chats()[0].id))
    print(f"  delete   {took:8.1f} ms")
    if passphrase is not None:
        print(f"  rekey    {milliseconds(lambda: store.change_passphrase('another')):8.1f} ms")
    store.close()


def main() -> None:
    """Measure the plain and the encrypted store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--chat-length", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    derivation = milliseconds(lambda: vault.new_sealed_header("a passphrase", vault.Cost()))
    print(f"key derivation {derivation:.1f} ms (not part of what follows)")
    for name, passphrase in (("plain", None), ("encrypted", "a passphrase")):
        print(name)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(Path(folder) / "chats.db", passphrase, options.messages, options.chat_length)


if __name__ == "__main__":
    main()
