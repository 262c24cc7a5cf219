"""What the benches share: a server of one's own on either engine, and the sections that they print.

A server is started from QUARRY_BIN in a folder below BENCH_DIR, and ended by its process id when the bench is over,
however it ends. Nothing but the standard library.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MAX_START_SECONDS = 60
MAX_STOP_SECONDS = 60
ENGINES = ("sqlite", "postgresql")


def arguments(description, **options):
    """Reads the numbers that make a bench longer or shorter; what is not said has the default given here."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--debug", action="store_true", help="build helpers without optimisation, to try the bench out")
    for name, default in options.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    return parser.parse_args()


def talk(text):
    print(text, file=sys.stderr, flush=True)


def engines():
    """Returns the engines that there are to be measured."""
    return ENGINES if os.environ.get("TEST_POSTGRES_URL") else ENGINES[:1]


def binary():
    path = os.environ.get("QUARRY_BIN")
    if not path or not os.access(path, os.X_OK):
        sys.exit("QUARRY_BIN must name the `quarry` to measure (hint: make bench)")
    return path


def scratch():
    """Returns a fresh folder, on the disk that is measured."""
    return pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("BENCH_DIR") or None))


def cargo(debug, *words):
    """Runs cargo, optimised unless told otherwise, and returns what it prints."""
    command = ["cargo", *words[:1], *([] if debug else ["--release"]), "--locked", "--quiet", *words[1:]]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def target():
    """Returns cargo's folder."""
    told = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], check=True, stdout=subprocess.PIPE)
    return pathlib.Path(json.loads(told.stdout)["target_directory"])


def fill(house, debug, *more):
    """Puts executions into a house whose server is not running."""
    place = ["--url", house.database] if house.database else ["--folder", str(house.folder / "data")]
    out = cargo(debug, "run", "--package", "store", "--example", "fill", "--", *place, *map(str, more))
    return json.loads(out)


def fresh_id(noun):
    """Makes an id: 48 bits of time, 80 of chance."""
    bits = (time.time_ns() // 1_000_000) << 80 | random.getrandbits(80)
    return f"{noun}_" + "".join("0123456789abcdefghjkmnpqrstvwxyz"[bits >> shift & 31] for shift in range(125, -1, -5))


def connect(port):
    stream = socket.create_connection(("127.0.0.1", port), timeout=60)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def free_port():
    """Returns a port that nobody has, below those that the kernel hands out to whoever asks for any."""
    while True:
        port = random.randrange(12_000, 20_000)
        with socket.socket() as taken:
            try:
                taken.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class House:
    """A place for one server after the other. To be used in a `with`, which ends the server and removes everything."""

    def __init__(self, engine):
        self.engine = engine
        self.folder = scratch()
        self.port = free_port()
        self.process = None
        self.database = None
        if engine == "postgresql":
            server, self.name = os.environ["TEST_POSTGRES_URL"].rsplit("/", 1)[0], f"bench_{random.getrandbits(64):x}"
            self.database = f"{server}/{self.name}"
            self._postgres("createdb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.database:
            self._postgres("dropdb", "--force")
        shutil.rmtree(self.folder)

    def _postgres(self, program, *words):
        find = ["scripts/with-postgres", "--find"]
        programs = subprocess.run(find, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        maintenance = f"--maintenance-db={os.environ['TEST_POSTGRES_URL']}"
        subprocess.run([f"{programs}/{program}", *words, maintenance, self.name], check=True)

    def start(self, role="serve", *more):
        """Starts a server, with a node if its role is `up`, and returns the seconds to the first 200 of /readyz."""
        data, token = self.folder / "data", self.folder / "token"
        command = [binary(), role, "--data", data, "--token-file", token, "--listen", f"127.0.0.1:{self.port}"]
        command += ["--set", "rate.per_second=0", "--set", "log.level=warn", *more]
        if self.database:
            command += ["--db", self.database]
        # Nobody's configuration but this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUARRY_")}
        begun = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while not self._ready():
            if self.process.poll() is not None:
                sys.exit(f"the server ended with {self.process.returncode}")
            if time.monotonic() - begun > MAX_START_SECONDS:
                sys.exit(f"the server is not ready after {MAX_START_SECONDS} s")
            time.sleep(0.0005)
        return time.monotonic() - begun

    def _ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as stream:
                stream.sendall(b"GET /readyz HTTP/1.1\r\nhost: quarry\r\nconnection: close\r\n\r\n")
                return stream.recv(12) == b"HTTP/1.1 200"
        except OSError:
            return False

    def stop(self):
        self.process.terminate()
        code = self.process.wait(MAX_STOP_SECONDS)
        self.process = None
        if code != 0:
            sys.exit(f"the server did not stop in order: {code}")

    def token(self):
        return (self.folder / "token").read_text().strip()

    def memory_mib(self):
        """Returns how much memory the server has in use."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(kib) / 1024

    def processor_seconds(self):
        """Returns the processor time that the server has used so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Section:
    """A section of the results: its head, its table, and what became of the promises."""

    def __init__(self, name, text):
        print(f"## {name}\n\n{text}\n")
        self.promises = []

    def table(self, head, rows):
        print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
        for row in rows:
            print("| " + " | ".join(row) + " |")
        print(flush=True)

    def promise(self, text, kept):
        self.promises.append((text, kept))

    def end(self):
        """Prints what became of the promises, and ends the bench as they demand."""
        for text, kept in self.promises:
            print(f"- {text}: **{'met' if kept else 'missed'}**")
        sys.exit(0 if all(kept for _, kept in self.promises) else 1)


def median(values):
    return statistics.median(values)


def quantile(values, share):
    values = sorted(values)
    return values[min(int(len(values) * share), len(values) - 1)]
