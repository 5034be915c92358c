"""Several machines on one: each with an address, processes, a disk and a share of the CPUs of its own.

    head 10.77.N.1 (GCS, no work)   desk 10.77.N.2 (the operator's: drivers run here)   workers 10.77.N.11, .12, ...

Addresses are network namespaces on one bridge, where Redis keeps the head's memory too. Processes are a namespace as
well: Ray looks for "its" raylet among all that it sees. Every machine runs `ray start --block`, as an operator would do
it, and is started again when that ends, as Kubernetes or a launcher would. Needs root, iproute2, util-linux, cgroup
v1's cpu controller, and redis-server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anonymousnet.cluster.render import KEEPALIVE

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
CGROUP = Path("/sys/fs/cgroup/cpu")
PORT, REDIS_PORT, DASHBOARD = 6399, 6398, 8265
DISK, STORE = "400m", 100 << 20
"""Of each machine: its disk (Ray's logs and spilled objects), and bytes of its object store."""
BACK_AFTER_S = 5.0
"""A machine that is lost comes back so many seconds later, empty."""
HEALTH = {  # a dead machine is noticed after 5 to 15 s; a real cluster's defaults take 30
    "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5",
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_timeout_ms": "3000",
}  # fmt: skip


def missing() -> str | None:
    """Why there can be no test bed here, or None."""
    if os.geteuid():
        return "network namespaces and small disks need root: run it as root, or in a privileged container"
    wanted = {"ip": "iproute2", "nsenter": "util-linux", "redis-server": "redis-server"}
    for tool, package in wanted.items():
        if shutil.which(tool) is None:
            return f"there is no {tool}: apt-get install {package}"
    if not os.access(CGROUP / "cgroup.procs", os.W_OK):
        return f"{CGROUP} is not there or not writable: slowing a machine down needs cgroup v1's cpu controller"
    return None


@dataclass(eq=False)
class Machine:
    """One machine of the bed."""

    bed: Bed
    name: str
    number: int
    """Last part of its address."""
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    """Ray, once it is started."""
    first: subprocess.Popen[bytes] | None = None
    """Who holds the machine's namespaces; without it, nothing lives there."""
    power: threading.RLock = field(default_factory=threading.RLock)
    """Held by whoever switches it on or off."""

    @property
    def address(self) -> str:
        return f"10.77.{self.bed.net}.{self.number}"

    @property
    def namespace(self) -> str:
        return f"{self.bed.name}-{self.number}"

    @property
    def cable(self) -> str:
        return f"{self.bed.name}v{self.number}"

    @property
    def disk(self) -> Path:
        return self.bed.folder / self.name

    @property
    def group(self) -> Path:
        return CGROUP / self.namespace

    def make(self) -> None:
        """Its address, disk and share of the CPUs."""
        ip = f"ip -n {self.namespace}"
        for command in (
            f"ip netns add {self.namespace}",
            f"ip link add {self.cable} type veth peer name eth0 netns {self.namespace}",
            f"ip link set {self.cable} master {self.bed.name} up",
            f"{ip} addr add {self.address}/24 dev eth0", f"{ip} link set eth0 up", f"{ip} link set lo up",
        ):  # fmt: skip
            _run(command)
        self.disk.mkdir()
        _run(f"mount -t tmpfs -o size={DISK} tmpfs {self.disk}")
        self.group.mkdir()

    def start(self) -> None:
        """Switch it on, and start Ray."""
        # A shell, because a namespace's first process has to bury the others' orphans.
        hold = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", "sleep infinity & wait"]
        self.first = subprocess.Popen(["ip", "netns", "exec", self.namespace, *hold], start_new_session=True)
        command = [
            str(BIN / "ray"), "start", "--block", f"--node-ip-address={self.address}", f"--temp-dir={self.disk}/ray",
            f"--object-store-memory={STORE}", "--disable-usage-stats", "--include-log-monitor=false", *self.arguments,
        ]  # fmt: skip
        self.process = self.spawn(command, self.bed.folder / f"{self.name}.log", self.environment)

    def spawn(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> Any:
        """A process on this machine, under its share of the CPUs."""
        inside = ["nsenter", "-t", str(self._inmost()), "--net", "--pid", "--mount", *command]

        def join() -> None:
            (self.group / "cgroup.procs").write_text("0")

        with log.open("ab") as out:
            return subprocess.Popen(
                inside, stdout=out, stderr=subprocess.STDOUT, env={**self.bed.environment, **(environment or {})},
                preexec_fn=join, start_new_session=True, cwd=ROOT,
            )  # fmt: skip

    def _inmost(self) -> int:
        """Number, outside, of the namespace's first process."""
        assert self.first is not None
        children = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children")
        for _ in range(100):
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.05)
        raise TimeoutError(f"{self.name} could not be switched on")

    def pids(self) -> list[int]:
        return [int(pid) for pid in _run(f"ip netns pids {self.namespace}").split()]

    def working(self) -> list[str]:
        """What Ray's processes on it are doing."""
        titles = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                if title.startswith("ray::") and "IDLE" not in title:
                    titles.append(title.removeprefix("ray::"))
        return titles

    def kill(self) -> None:
        """A power cut: every process at once, and what was on the disk is gone."""
        with self.power:
            if self.first is not None:
                self.first.kill()  # and with it, by --kill-child, all the others
                self.first.wait()
            for _ in range(100):
                if not self.pids():
                    break
                time.sleep(0.1)
            for path in self.disk.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def cut(self) -> None:
        """Pull its network cable."""
        _run(f"ip link set {self.cable} down")

    def plug(self) -> None:
        """Put the cable back."""
        _run(f"ip link set {self.cable} up")

    def limit(self, share: float | None) -> None:
        """So much of one CPU for all its processes together; None: no limit."""
        (self.group / "cpu.cfs_quota_us").write_text("-1" if share is None else str(int(share * 100_000)))

    def fill(self) -> None:
        """Leave no byte free on its disk."""
        with (self.disk / "filler").open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
                file.flush()

    def remove(self) -> None:
        self.kill()
        for command in (f"ip link del {self.cable}", f"ip netns del {self.namespace}", f"umount {self.disk}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                _run(command)
        for _ in range(20):
            try:
                self.group.rmdir()
                return
            except OSError:
                time.sleep(0.1)


class Bed:
    """Head, desk and workers; use it as a context."""

    def __init__(self, workers: int = 2, cpus: int = 3, dashboard: bool = False, **settings: str) -> None:
        """`dashboard`: jobs can be submitted at port DASHBOARD of the head; `settings`: more environment."""
        self.net = os.getpid() % 200 + 1
        self.name = f"anx{self.net}"
        self.folder = Path(tempfile.mkdtemp(prefix="anx-"))
        password = secrets.token_hex(8)
        self.environment = {
            **os.environ, **HEALTH, **KEEPALIVE, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "120", "HOME": str(self.folder), **settings,
        }  # fmt: skip
        at = f"10.77.{self.net}.254:{REDIS_PORT}"
        memory = {"RAY_REDIS_ADDRESS": at, "RAY_REDIS_PASSWORD": password, "RAY_external_storage_namespace": self.name}
        redis = f"redis-server --bind 10.77.{self.net}.254 --port {REDIS_PORT} --requirepass {password} --dir"
        self._redis_command = [*redis.split(), str(self.folder), "--save", ""]
        self._redis: subprocess.Popen[bytes] | None = None
        self.head = Machine(
            self, "head", 1,
            ["--head", f"--port={PORT}", "--num-cpus=0", f"--include-dashboard={str(dashboard).lower()}",
             "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}", f"--redis-password={password}"],
            memory,
        )  # fmt: skip
        join = [f"--address={self.address}"]
        self.desk = Machine(self, "desk", 2, [*join, "--num-cpus=0", '--resources={"desk": 1}'])
        self.workers = [Machine(self, f"worker{i + 1}", 11 + i, [*join, f"--num-cpus={cpus}"]) for i in range(workers)]
        self._over = threading.Event()
        self.supervising = threading.Thread(target=self._supervise, daemon=True)

    @property
    def address(self) -> str:
        return f"10.77.{self.net}.1:{PORT}"

    @property
    def machines(self) -> list[Machine]:
        return [self.head, self.desk, *self.workers]

    def __enter__(self) -> Bed:
        # Ended from outside, such as by `timeout`, a run must not leave machines behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            _run(f"ip link add {self.name} type bridge")
            _run(f"ip addr add 10.77.{self.net}.254/24 dev {self.name}")
            _run(f"ip link set {self.name} up")
            with (self.folder / "redis.log").open("wb") as log:
                self._redis = subprocess.Popen(
                    self._redis_command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            for machine in self.machines:
                machine.make()
            self.head.start()
            self._await_head()
            for machine in self.machines[1:]:
                machine.start()
            self.await_nodes(len(self.machines))
        except BaseException:
            self.__exit__()
            raise
        self.supervising.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.supervising.ident is not None:
            self.supervising.join(30)
        for machine in self.machines:
            machine.remove()
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            _run(f"ip link del {self.name}")
        if os.environ.get("CHAOS_KEEP") is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def await_nodes(self, count: int, timeout_s: float = 180) -> None:
        """Wait until so many machines are alive. Raises TimeoutError."""
        code = (
            f"import ray, sys; ray.init(address='{self.address}', log_to_driver=False, logging_level='ERROR'); "
            f"sys.exit(sum(n['Alive'] for n in ray.nodes()) < {count})"
        )
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.desk.spawn([sys.executable, "-c", code], self.folder / "probe.log").wait(60) == 0:
                return
            time.sleep(1)
        raise TimeoutError(f"{count} machines were not up in {timeout_s:.0f} s; logs are in {self.folder}")

    def heal(self) -> None:
        """Undo what faults left behind, and wait until everybody is there."""
        for machine in self.machines:
            machine.plug()
            machine.limit(None)
            (machine.disk / "filler").unlink(missing_ok=True)
        self.await_nodes(len(self.machines))

    def _await_head(self) -> None:
        import socket

        for _ in range(900):
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((self.head.address, PORT)) == 0:
                    return
            time.sleep(0.2)
        raise TimeoutError(f"the head did not start; see {self.folder}/head.log")

    def _supervise(self) -> None:
        """Start again who ended."""
        while not self._over.wait(0.5):
            for machine in self.machines:
                if machine.process is not None and machine.process.poll() is not None:
                    if self._over.wait(BACK_AFTER_S):
                        return
                    with machine.power:
                        machine.kill()
                        machine.start()


def _run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
