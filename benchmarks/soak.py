"""`python -m benchmarks.soak --minutes 10`: the page under eight clients that upload, write
captions, train, stop and compare, killed and begun again three times on the way.

`--minutes 120 --clients 20 --kill-every 60` is the long soak: every minute a training, a worker or
the page is killed, the page each fourth time.

Every client works as a browser and a program do: captions go through the page's own event,
everything else through its verbs (docs/api.md).
Counted: answers that are no answer of ours, captions that were said to be saved and are not on
disk, lines of tracebacks in the server's log, and the memory of the page's process. What a client
asks while the page is down is not counted. Exit code 1 when anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio_client
import httpx
import psutil
from PIL import Image

from benchmarks.shapes import machine

ROOT = Path(__file__).resolve().parents[1]
KILLS = 3
PATIENCE = 120.0  # seconds, after which an answer counts as none
# of the page's memory from its first third of a life to its last, beyond which it is called
# unbounded
GROWTH = 1.25
SETTLED = 20.0  # seconds after a start in which its memory is still growing to its size
WORDS = "red blue small old round quiet apple castle fox boat with and a of green lamp".split()


class Page:
    """The server's process, which is killed and begun again."""

    def __init__(self, workspace: Path, log: Path) -> None:
        self.workspace, self.log = workspace, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.up = threading.Event()
        self.life = 0
        self.memory: list[
            list[tuple[float, float]]
        ] = []  # of each life: seconds since its start, MiB
        self.threads = 0  # at most

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Seconds until it answered."""
        began = time.monotonic()
        with self.log.open("a") as log:
            command = [
                sys.executable,
                "-m",
                "studio",
                "--port",
                str(self.port),
                "--workspace",
                str(self.workspace),
            ]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"the page ended by itself: {self.log.read_text()[-2000:]}")
            try:
                httpx.get(f"{self.url}/config", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        self.life += 1
        self.memory.append([])
        self.started = time.monotonic()
        self.up.set()
        return self.started - began

    def kill(self) -> None:
        self.up.clear()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def measure(self) -> None:
        try:
            process = psutil.Process(self.process.pid)
            size = process.memory_info().rss / 2**20
            self.threads = max(self.threads, process.num_threads())
        except psutil.Error:
            return
        self.memory[-1].append((time.monotonic() - self.started, size))


@dataclass
class Tally:
    """What all clients saw."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(
        default_factory=Counter
    )  # our own words, in answer to what cannot be done now
    wrong: list[str] = field(default_factory=list)
    waited: dict[str, list[float]] = field(default_factory=dict)  # seconds
    lock: threading.Lock = field(default_factory=threading.Lock)

    def took(self, what: str, seconds: float) -> None:
        with self.lock:
            self.done[what] += 1
            self.waited.setdefault(what, []).append(seconds)


class Client(threading.Thread):
    """One of the eight: a dataset of its own, a run at a time, a comparison now and then."""

    def __init__(self, number: int, page: Page, tally: Tally, pictures: Path, end: float) -> None:
        super().__init__(daemon=True)
        self.number, self.page, self.tally, self.end = number, page, tally, end
        self.rng = random.Random(number)
        self.dataset = f"client{number}"
        self.pictures = pictures
        self.names: list[str] = []
        self.saved: dict[str, str] = {}  # picture -> caption that was said to be saved
        self.asked: dict[
            str, set[str]
        ] = {}  # picture -> captions sent since, of which the page died before it answered
        self.runs: list[str] = []
        self.drawn: list[str] = []
        self.client: gradio_client.Client | None = None
        self.life = 0

    def run(self) -> None:
        turns: list[tuple[float, Callable[[], None]]] = [
            (0.60, self.write),
            (0.70, self.upload),
            (0.80, self.train),
            (0.85, self.stop),
            (0.92, self.look),
            (1.0, self.compare),
        ]
        while time.monotonic() < self.end:
            self.page.up.wait()
            life = self.page.life
            try:
                if self.client is None or self.life != life:
                    self._connect(life)
                chance = self.rng.random()
                next(
                    act for limit, act in turns if chance <= limit
                )() if self.names else self.upload()
            except Exception as error:  # a client does not die of what it is here to count
                if self.page.life == life and self.page.up.is_set():
                    time.sleep(0.5)  # it may have been killed in this moment
                    if self.page.life == life and self.page.up.is_set():
                        with self.tally.lock:
                            self.tally.wrong.append(
                                f"client {self.number}: {type(error).__name__}: "
                                f"{str(error)[:300]} {_place(error)}"
                            )
                self.client = None
            time.sleep(self.rng.uniform(0.0, 0.6))

    def _connect(self, life: int) -> None:
        self.client = gradio_client.Client(self.page.url, verbose=False, download_files=False)
        config = httpx.get(f"{self.page.url}/config", timeout=PATIENCE).json()
        ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
        of_caption = [
            d
            for d in config["dependencies"]
            if [ids["caption"], "change"] in [list(t) for t in d["targets"]]
        ]
        self.writing = next(
            d for d in of_caption if d["inputs"][:2] == [ids["picture-of"], ids["caption"]]
        )
        self.life = life

    def _ask(self, what: str, *values: Any) -> Any:
        began = time.monotonic()
        try:
            found = self.client.submit(*values, api_name=f"/{what}").result(timeout=PATIENCE)
        except gradio_client.exceptions.AppError as error:
            if not str(error) or "Traceback" in str(error):
                raise
            with self.tally.lock:
                self.tally.refused[f"{what}: {str(error)[:60]}"] += 1
            return None
        self.tally.took(what, time.monotonic() - began)
        return found

    # --- what it does ---

    def upload(self) -> None:
        some = self.rng.sample(sorted(self.pictures.glob("*")), 3)
        found = self._ask(
            "upload", self.dataset, [gradio_client.handle_file(path) for path in some]
        )
        if found:
            self.names += [name for name in found["kept"] if not name.endswith(".txt")]

    def write(self) -> None:
        """As the page saves what is typed:

        one event, one answer. Every time as a page that was just opened, of which the server
        remembers most.
        """
        picture = self.rng.choice(self.names)
        text = " ".join(self.rng.choices(WORDS, k=6)) + f" {self.rng.random():.6f}"
        session = f"c{self.number}-{self.rng.getrandbits(48):x}"
        self.asked.setdefault(picture, set()).add(text)
        event = {
            "data": [f"{self.dataset}/{picture}", text, "mini", self._shown(picture)],
            "fn_index": self.writing["id"],
            "session_hash": session,
        }
        began = time.monotonic()
        httpx.post(
            f"{self.page.url}/gradio_api/queue/join", json=event, timeout=PATIENCE
        ).raise_for_status()
        with httpx.stream(
            "GET",
            f"{self.page.url}/gradio_api/queue/data",
            params={"session_hash": session},
            timeout=PATIENCE,
        ) as answers:
            for line in answers.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"a caption was refused: {message['output']}")
                    self.saved[picture] = text
                    self.asked[picture] = set()
                    self.tally.took("caption", time.monotonic() - began)
                    return
        raise RuntimeError("a caption was never answered")

    def _shown(self, picture: str) -> str:
        """The caption that a page which was just opened shows, and sends along with a new one."""
        path = self.page.workspace / "datasets" / self.dataset / Path(picture).with_suffix(".txt")
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    def train(self) -> None:
        if sum(self._state(run) in ("running", "waiting") for run in self.runs[-2:]):
            return
        name = f"{self.dataset}-{len(self.runs)}"
        settings = {
            "save.name": name,
            "optim.steps": 30,
            "optim.batch_size": 1,
            "save.every": 10,
            "preview.every": 0,
            "report.minutes": 0.0,
        }
        if self._ask("train", self.dataset, settings | {"adapter.rank": 4}):
            self.runs.append(name)

    def _state(self, run: str) -> str:
        return (self._ask("status", run) or {}).get("state", "")

    def stop(self) -> None:
        if self.runs:
            self._ask("stop", self.runs[-1])

    def look(self) -> None:
        for run in self.runs[-1:]:
            self._ask("status", run)
        for name in self.drawn[-1:]:
            self._ask("comparison", name)

    def compare(self) -> None:
        ids = [
            found["id"]
            for run in self.runs[-2:]
            if (found := self._ask("status", run)) and found.get("id")
        ]
        if self.drawn and (self._ask("comparison", self.drawn[-1]) or {}).get("state") == "drawing":
            return
        found = self._ask(
            "compare", "mini", ids, [self.rng.choice(WORDS)], [self.number], 2, 1.0, 0
        )
        if found:
            self.drawn.append(found["comparison"])


def _place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"({Path(last.filename).name}:{last.lineno})"


def lost(clients: list[Client], workspace: Path) -> list[str]:
    """Captions that were said to be saved and are not there, and what is there instead."""
    found = []
    for client in clients:
        for picture, text in client.saved.items():
            path = workspace / "datasets" / client.dataset / Path(picture).with_suffix(".txt").name
            there = path.read_text(encoding="utf-8").strip() if path.is_file() else None
            if there != text and there not in client.asked.get(
                picture, set()
            ):  # one sent later may have come through without an answer
                found.append(f"{client.dataset}/{picture}: {there!r} instead of {text!r}")
    return found


def drawn_pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = random.Random(0)
    for i in range(40):
        colours = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(2)]
        picture = Image.new("RGB", (160, 140), colours[0])
        picture.paste(
            colours[1],
            (rng.randrange(60), rng.randrange(60), 90 + rng.randrange(60), 90 + rng.randrange(50)),
        )
        picture.save(folder / f"{i}.png")
    return folder


def killed_beside(scratch: Path, dice: random.Random) -> str:
    """Kill a worker or a training of the workspace, if there is one; return which."""
    kinds = ("training.train_style", "studio.processes.worker")
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        kind = next((kind for kind in kinds if kind in words), "")
        if kind and any(str(scratch) in word for word in words):
            found.append((kind, process))
    if not found:
        return "nothing"
    kind, process = dice.choice(found)
    with contextlib.suppress(psutil.Error):
        process.kill()
    return kind.rpartition(".")[2]


def soaked(minutes: float, count: int, scratch: Path, kill_every: float = 0.0) -> dict[str, Any]:
    """Everything that was seen."""
    dice, killed = random.Random(count), Counter[str]()
    page, tally = Page(scratch / "workspace", scratch / "page.log"), Tally()
    page.log.touch()
    starts = [page.start()]
    end = time.monotonic() + minutes * 60
    clients = [Client(i, page, tally, scratch / "pictures", end) for i in range(count)]
    for client in clients:
        client.start()
    kills = [time.monotonic() + minutes * 60 * (k + 1) / (KILLS + 1) for k in range(KILLS)]
    if kill_every:
        kills = [
            time.monotonic() + kill_every * (k + 1) for k in range(int(minutes * 60 / kill_every))
        ]
    while time.monotonic() < end:
        page.measure()
        if kills and time.monotonic() >= kills[0]:
            kills.pop(0)
            if kill_every and (killed.total() + 1) % 4:
                killed[killed_beside(scratch, dice)] += 1
            else:
                killed["page"] += 1
                page.kill()
                starts.append(page.start())
        time.sleep(0.5)
    for client in clients:
        client.join(PATIENCE)
    stuck = [client.number for client in clients if client.is_alive()]
    gone = lost(clients, page.workspace)
    page.kill()
    for process in psutil.process_iter(["cmdline"]):  # trainings outlive the page, as they should
        if any(str(scratch) in word for word in process.info["cmdline"] or ()):
            process.kill()
    runs = Counter(
        _ended(page.workspace / "runs" / run) for client in clients for run in client.runs
    )
    log = page.log.read_text(errors="replace")
    return {
        "starts": starts,
        "killed": dict(killed),
        "threads": page.threads,
        "p99": {what: quantile(all_of) for what, all_of in tally.waited.items()},
        "done": dict(tally.done),
        "refused": dict(tally.refused),
        "wrong": tally.wrong,
        "stuck": stuck,
        "lost": gone,
        "saved": sum(len(client.saved) for client in clients),
        "runs": dict(runs),
        "drawn": sum(len(client.drawn) for client in clients),
        "waited": {
            what: [statistics.median(all_of), max(all_of)] for what, all_of in tally.waited.items()
        },
        "memory": page.memory,
        "tracebacks": [part[:1500] for part in log.split("Traceback (most recent call last)")[1:]],
    }


def quantile(times: list[float], share: float = 0.99) -> float:
    """The time within which that share of the answers came."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def _ended(run: Path) -> str:
    events = run / "events.jsonl"
    last = events.read_text(encoding="utf-8").splitlines()[-1:] if events.is_file() else []
    return json.loads(last[0])["event"] if last else "still waiting"


def growth(life: list[tuple[float, float]]) -> float:
    """The memory of the last third of a life over that of the first, once it has settled."""
    sizes = [size for seconds, size in life if seconds > SETTLED]
    third = len(sizes) // 3
    return statistics.median(sizes[-third:]) / statistics.median(sizes[:third]) if third else 1.0


def grown_by(life: list[tuple[float, float]]) -> float:
    """The same as a difference, MiB."""
    sizes = [size for seconds, size in life if seconds > SETTLED]
    third = len(sizes) // 3
    return statistics.median(sizes[-third:]) - statistics.median(sizes[:third]) if third else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=0.0, help="seconds")
    parser.add_argument("--json", type=Path, help="also write everything that was seen there")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        drawn_pictures(Path(scratch) / "pictures")
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # gradio_client prints a traceback whenever the page goes from under it
            seen = soaked(given.minutes, given.clients, Path(scratch), given.kill_every)
    from training.runtime.device import choose

    print(json.dumps(machine(choose("cpu", "auto"))) + "\n")
    starts = ", ".join(f"{seconds:.1f}" for seconds in seen["starts"])
    print(
        f"{given.clients} clients, {given.minutes:g} minutes, killed {seen['killed']}; answering "
        f"after {starts} s; at most {seen['threads']} threads\n"
    )
    print("| asked | answered | median s | 99 % within s | longest s |\n|---|---|---|---|---|")
    for what, times in sorted(seen["done"].items()):
        print(
            f"| {what} | {times} | {seen['waited'][what][0]:.2f} | {seen['p99'][what]:.2f} | "
            f"{seen['waited'][what][1]:.1f} |"
        )
    grown = [growth(life) for life in seen["memory"]]
    most = [max((size for _, size in life), default=0) for life in seen["memory"]]
    reasons = Counter()
    for words, times in seen["refused"].items():
        reasons[re.sub(r"'[^']*'", "...", words)] += times
    print(f"\nrefused in words: {dict(reasons) or 'nothing'}")
    print(f"runs by their last event: {seen['runs']}, comparisons begun: {seen['drawn']}")
    print(
        f"captions on disk as they were said to be saved: {seen['saved'] - len(seen['lost'])} "
        f"of {seen['saved']}"
    )
    lives = zip(most, grown, map(grown_by, seen["memory"]), strict=True)
    sizes = [f"{size:.0f} MiB at most, grown {g:.2f} times ({by:.0f} MiB)" for size, g, by in lives]
    print(f"memory of each life: {', '.join(sizes)}")
    print(
        f"wrong answers: {len(seen['wrong'])}, tracebacks: {len(seen['tracebacks'])}, clients "
        f"that hung: {len(seen['stuck'])}"
    )
    for line in [*seen["wrong"][:20], *seen["lost"][:20], *seen["tracebacks"][:5]]:
        print(f"- {line}")
    if given.json:
        given.json.write_text(json.dumps(seen, indent=1), encoding="utf-8")
    return int(
        bool(
            seen["wrong"]
            or seen["lost"]
            or seen["tracebacks"]
            or seen["stuck"]
            or max(grown) > GROWTH
        )
    )


if __name__ == "__main__":
    sys.exit(main())
