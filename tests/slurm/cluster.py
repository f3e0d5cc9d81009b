"""A real Slurm on this one host, without systemd, in a folder of its own.

    python -m tests.slurm.cluster up        # start it; it stays up after the command ends
    eval "$(make -s slurm-env)"             # this shell's sbatch, squeue, sacct now talk to it
    python -m tests.slurm.cluster status
    python -m tests.slurm.cluster down      # stop it and remove its folder

or, in Python:

    with SlurmCluster(tmp_path / "slurm") as slurm:
        slurm.run("sbatch", "--wrap", "hostname")

munged, mariadbd, slurmdbd, slurmctld and one slurmd per node run as root. The nodes pretend the shapes of
Killarney (kn, kh) and Bon Echo (ea, eb); their GPUs are /dev/null under other names, enough for Slurm to
count them and to set CUDA_VISIBLE_DEVICES. Needs Debian's slurm-wlm, munge, slurmdbd and mariadb-server.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import json
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTALL = "apt-get install slurm-wlm munge slurmdbd mariadb-server"
SLURM_PROGRAMS = ("slurmdbd", "slurmctld", "slurmd", "sacctmgr", "sinfo")
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", *SLURM_PROGRAMS)
# Daemons live in sbin, which is not on every user's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
HOSTS = Path("/etc/hosts")
START_LIMIT_S = 60.0
STOP_LIMIT_S = 2.0  # a slurmd that ends a job waits for KillWait


class ClusterError(RuntimeError):
    """What is wrong and what to do about it, in one line."""


@dataclass(frozen=True)
class Shape:
    """One kind of node."""

    nodes: tuple[str, ...]
    sockets: int
    cores: int  # per socket
    memory_mb: int
    gpu: str
    gpus: int


SHAPES = (
    Shape(("kn1", "kn2"), sockets=2, cores=32, memory_mb=512_000, gpu="l40s", gpus=4),
    Shape(("kh1", "kh2"), sockets=2, cores=24, memory_mb=2_048_000, gpu="h100", gpus=8),
    Shape(("ea1", "ea2"), sockets=2, cores=16, memory_mb=176_000, gpu="a40", gpus=4),
    Shape(("eb1", "eb2"), sockets=2, cores=32, memory_mb=352_000, gpu="a100", gpus=4),
)
NODES = tuple(node for shape in SHAPES for node in shape.nodes)

# The real Killarney picks gpubase_* by GPU type and time limit; here the default partition `killarney` stands
# in for that. Only jobs in `low` and `grace` are ever preempted, and only by `high`.
PARTITIONS = """\
PartitionName=DEFAULT MaxTime=7-00:00:00 DefaultTime=01:00:00 DefMemPerCPU=1000 PriorityTier=1 PreemptMode=OFF
PartitionName=killarney Nodes=kn[1-2],kh[1-2] Default=YES
PartitionName=gpubase_l40s_b1 Nodes=kn[1-2] MaxTime=03:00:00
PartitionName=gpubase_h100_b1 Nodes=kh[1-2] MaxTime=03:00:00
PartitionName=a40 Nodes=ea[1-2]
PartitionName=a100 Nodes=eb[1-2]
PartitionName=cpu Nodes=ea[1-2]
PartitionName=low Nodes=kn[1-2] PreemptMode=REQUEUE GraceTime=0
PartitionName=grace Nodes=kn[1-2] PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=kn[1-2] PriorityTier=100
"""

# Daemons then listen at the address of the host's name, where nobody looks for them unless that is 127.0.0.1.
# Elsewhere they listen at all addresses, as on a real cluster, and munge's key keeps strangers out.
LOOPBACK_ONLY = "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"

SLURM_CONF = """\
ClusterName=vec
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also the time for which Slurm holds a requeued job.
AuthInfo=socket={munge_socket},cred_expire={requeue_hold_s}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool/%n
# The daemons write to log/<name>.log as well; these two also have the time, and what slurmstepds say.
SlurmctldLogFile={home}/log/ctld.log
SlurmdLogFile={home}/log/%n.log
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
# One host plays all nodes: believe the sizes below, and do not bind or confine what a job runs.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
EnforcePartLimits=ALL
{loopback_only}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
# Look at the queue every second or two, so that tests are quick; a busy site takes up to a minute.
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
{user_signal}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait_s}
MaxArraySize=1001
MessageTimeout=30
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
# The way to slurmdbd has its own setting for munge's socket; AuthInfo does not hold there.
AccountingStoragePass={munge_socket}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
{nodes}{partitions}"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
PidFile={home}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""

# ------------------------------------------------------------------------------------------------------------
# Processes and ports


PORTS = range(30_000, 32_700)  # below the kernel's ephemeral range, above the ports that the runs themselves take


def reserve_ports(count: int) -> tuple[list[int], socket.socket]:
    """A block of ports nobody listens on. While the returned socket is open no second cluster gets it: its name in
    Linux's abstract namespace stands for the block, and vanishes with us."""
    bases = list(PORTS[:-count:count])
    random.SystemRandom().shuffle(bases)
    for base in bases:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0vec-slurm-ports-{base}")
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", port))
        except OSError:
            claim.close()
        else:
            return list(range(base, base + count)), claim
    raise ClusterError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Process:
    parent: int
    ticks: int  # start, in clock ticks after boot: together with the pid it names a process for good


def process(pid: int) -> Process | None:
    """None if there is no such process or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else Process(parent=int(fields[1]), ticks=int(fields[19]))


def start_ticks(pid: int) -> int | None:
    found = process(pid)
    return found.ticks if found else None


def process_table() -> dict[int, Process]:
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return {pid: found for pid in pids if (found := process(pid)) is not None}


def send(pid: int, ticks: int | None, signum: int) -> None:
    """Signal the process that had this pid when we looked, never a later one with the same number."""
    if ticks is not None and start_ticks(pid) == ticks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def alive(daemon: dict[str, Any]) -> bool:
    return daemon["ticks"] is not None and start_ticks(daemon["pid"]) == daemon["ticks"]


def wait_until(ready: Callable[[], bool], limit_s: float, pause_s: float = 0.05) -> bool:
    end = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True


def one_line(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())


def tail(log: Path, lines: int = 4) -> str:
    """The end of a log as one line; errors only, if there are any."""
    try:
        text = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        text = []
    errors = [line for line in text if re.search("error|fatal", line, re.IGNORECASE)]
    return " | ".join((errors or text)[-lines:]) or "its log is empty"


# ------------------------------------------------------------------------------------------------------------
# /etc/hosts


def edit_hosts(change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite /etc/hosts under a lock and in place: in a container it is a mount, and no rename works."""
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = change(file.read().splitlines())
        file.seek(0)
        file.write("".join(line + "\n" for line in lines))
        file.truncate()


def leads_home(name: str) -> bool:
    try:
        return socket.gethostbyname(name) == "127.0.0.1"
    except OSError:
        return False


def names_to_add(names: Iterable[str], lines: list[str]) -> list[str]:
    """Names that do not lead to 127.0.0.1, or do so only by another cluster's line, which may go first."""
    lent = {word for line in lines if "# vec-slurm" in line for word in line.split()}
    return [name for name in names if name in lent or not leads_home(name)]


# ------------------------------------------------------------------------------------------------------------
# The cluster


class SlurmCluster:
    """A Slurm of its own in `root`, which must not exist yet or be empty; `down()` removes it.

    kill_wait_s: Slurm's KillWait, the time between SIGTERM and SIGKILL.
    requeue_hold_s: how long a requeued job waits before it may start again; `release` ends the wait.
    preempt_send_user_signal: a preempted job gets the signal of its `--signal` when its grace time begins.
    log: called with plain progress lines.
    """

    def __init__(
        self,
        root: Path,
        *,
        kill_wait_s: int = 30,
        requeue_hold_s: int = 120,
        preempt_send_user_signal: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.root = Path(os.path.abspath(root))
        self.kill_wait_s = kill_wait_s
        self.requeue_hold_s = requeue_hold_s
        self.preempt_send_user_signal = preempt_send_user_signal
        self.log = log
        self._children: list[subprocess.Popen[bytes]] = []
        self._claim: socket.socket | None = None
        self._state: dict[str, Any] = self._read_state()

    def __enter__(self) -> SlurmCluster:
        self.up()
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    # -- state: what down() needs, also from another process

    @property
    def _state_file(self) -> Path:
        return self.root / "state.json"

    def _read_state(self) -> dict[str, Any]:
        try:
            return json.loads(self._state_file.read_text())
        except FileNotFoundError:
            return {}

    def _write_state(self) -> None:
        new = self._state_file.with_suffix(".new")
        new.write_text(json.dumps(self._state, indent=2))
        new.replace(self._state_file)

    @property
    def home(self) -> Path:
        """`root` as the daemons see it."""
        return Path(self._state["home"])

    @property
    def daemons(self) -> dict[str, bool]:
        """Name of each daemon started (`slurmctld`, `slurmd-kn1`, ...) and whether it runs."""
        return {daemon["name"]: alive(daemon) for daemon in self._state.get("daemons", [])}

    @property
    def running(self) -> bool:
        """Up and complete."""
        return bool(self._state.get("ready")) and all(self.daemons.values())

    def _create_folder(self) -> None:
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise ClusterError(f"{self.root} is not empty, and down() would remove it: choose another")
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)  # jobs of any user must reach slurm.conf and munge's socket
        name = f"vec-slurm-{secrets.token_hex(4)}"
        home = self.root
        # gres.conf takes File= for a list of hosts, paths expand %n, AuthInfo splits at commas, the path of
        # a socket ends at 108 bytes; a root that is long or not plain is given to Slurm by a short link.
        if not re.fullmatch(r"[\w/.+-]{1,60}", str(self.root)):
            home = Path("/tmp", name)
            home.symlink_to(self.root, target_is_directory=True)
        self._state = {"name": name, "home": str(home), "daemons": [], "hosts_line": None, "ready": False}
        with self._state_file.open("x") as file:  # "x": of two starts in one folder, the second fails here
            json.dump(self._state, file)

    # -- starting

    def up(self) -> None:
        """Start all daemons and wait until every node is idle; takes some 10 s."""
        if self.running:
            raise ClusterError(f"a cluster already runs in {self.root}: stop it first, or use another folder")
        check_host()
        self.down()  # what is left of one that was killed half way
        try:
            self._create_folder()
        except OSError as error:
            raise ClusterError(f"cannot create the cluster's folder: {error}") from error
        try:
            self._start_all()
        except BaseException as error:
            self.down()
            if isinstance(error, OSError):
                raise ClusterError(f"the cluster could not be started: {error}") from error
            raise

    def _start_all(self) -> None:
        (sql_port, dbd_port, ctld_port, *node_ports), self._claim = reserve_ports(3 + len(NODES))
        self._write_files(sql_port, dbd_port, ctld_port, node_ports)
        self._name_nodes()
        munge_files = (f"--{file}-file={self.home}/munge/{file}" for file in ("key", "pid", "log", "seed"))
        self._start("munged", "-F", "--force", f"--socket={self._munge_socket}", *munge_files)
        self._start_database(sql_port)
        self._await("munged", self._munge_socket.is_socket)
        self._start("slurmdbd", "-D")
        self._await("slurmdbd", lambda: listens(dbd_port))
        self._create_accounts()
        self.start_daemon("slurmctld")
        self._await("slurmctld", lambda: listens(ctld_port))
        for node in NODES:
            self.start_daemon(f"slurmd-{node}")
        self._await("slurmctld", self._all_idle)
        self._state["ready"] = True
        self._write_state()
        self.log(f"all {len(NODES)} nodes are idle")

    def _start(self, name: str, *args: str) -> None:
        """Start a daemon in the foreground of its own session: so we know its pid, and it outlives us."""
        self.log(f"starting {name}")
        program = shutil.which(name.partition("-")[0], path=SEARCH_PATH)
        assert program is not None  # check_host() has seen it
        with (self.root / "log" / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [program, *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env=self._daemon_env(),
                start_new_session=True,
            )
        self._children.append(child)
        self._state["daemons"].append({"name": name, "pid": child.pid, "ticks": start_ticks(child.pid)})
        self._write_state()

    def _daemon_env(self) -> dict[str, str]:
        """Little, so that nothing of this shell (a SLURM_* of another cluster) reaches slurmd and its jobs.
        VEC_SLURM is a mark: by it a daemon is found that was started just before we were killed."""
        return {
            "PATH": SEARCH_PATH,
            "HOME": os.environ.get("HOME", "/root"),
            "LANG": "C.UTF-8",
            "VEC_SLURM": self._state["name"],
            **self.env(),
        }

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait for a sign of life of the last daemon started; tell the end of its log if there is none."""
        log = self.root / "log" / f"{name}.log"

        def ready_or_dead() -> bool:
            return ready() or not all(self.daemons.values())

        in_time = wait_until(ready_or_dead, START_LIMIT_S)
        dead = [daemon for daemon, alive in self.daemons.items() if not alive]
        if dead:
            raise ClusterError(f"{dead[0]} ended while starting: {tail(log.with_name(dead[0] + '.log'))}")
        if not in_time:
            raise ClusterError(f"{name} was not ready after {START_LIMIT_S:.0f} s: {tail(log)}")

    def _start_database(self, port: int) -> None:
        # a server that starts removes temporary tables of others from a shared /tmp, and those crash
        data = [f"--datadir={self.home}/mysql", f"--tmpdir={self.home}/tmp", "--user=root", *FAST_DATABASE]
        self.log("creating the database")
        with (self.root / "log" / "mariadb-install-db.log").open("wb") as log:
            install = subprocess.run(
                ["mariadb-install-db", "--no-defaults", "--skip-test-db", *data],
                stdout=log,
                stderr=log,
                env=self._daemon_env(),
                cwd=self.root,
            )
        if install.returncode != 0:
            raise ClusterError(f"mariadb-install-db failed: {tail(Path(log.name))}")
        own = [f"--socket={self.home}/mysql.sock", f"--pid-file={self.home}/mysql.pid", f"--port={port}"]
        setup = [f"--init-file={self.home}/init.sql", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        self._start("mariadbd", "--no-defaults", *data, *own, *setup)
        self._await("mariadbd", lambda: listens(port))

    def _create_accounts(self) -> None:
        self.log("creating accounts")
        user = getpass.getuser()
        for command in (
            "add cluster vec",
            "add qos fast,m2",
            "add account vec,other cluster=vec",
            f"add user {user} account=vec,other defaultaccount=vec",
            f"modify user {user} set defaultaccount=vec",  # root has an account `root` from the start
            f"modify user {user} set qos=normal,fast,m2 defaultqos=normal",
        ):
            done = self.run("sacctmgr", "-i", *command.split())
            if done.returncode != 0:
                raise ClusterError(f"sacctmgr {command} failed: {one_line(done.stderr)}")

    def _all_idle(self) -> bool:
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T").stdout.split("\n")
        return {state for state in states if state} == {f"{node} idle" for node in NODES}

    def _name_nodes(self) -> None:
        """Let node names resolve: torch connects to MASTER_ADDR, which is the name of a node."""

        def with_ours(lines: list[str]) -> list[str]:
            names = names_to_add(NODES, lines)
            if not names:
                return lines
            line = f"127.0.0.1 {' '.join(names)} # vec-slurm {self._state['name']}"
            self._state["hosts_line"] = line
            self._write_state()  # first: down() must know of it
            return [*lines, line]

        edit_hosts(with_ours)

    # -- files

    @property
    def _munge_socket(self) -> Path:
        return self.home / "munge" / "socket"

    def _write_files(self, sql_port: int, dbd_port: int, ctld_port: int, node_ports: list[int]) -> None:
        for folder in ("munge", "mysql", "log", "state", "spool", "dev", "tmp"):
            (self.root / folder).mkdir()
        private_file(self.root / "munge" / "key", secrets.token_bytes(64))
        password = secrets.token_hex(16)
        private_file(self.root / "init.sql", database_setup(password).encode())
        slurmdbd_conf = SLURMDBD_CONF.format(
            home=self.home,
            munge_socket=self._munge_socket,
            sql_port=sql_port,
            dbd_port=dbd_port,
            password=password,
        )
        private_file(self.root / "slurmdbd.conf", slurmdbd_conf.encode())
        (self.root / "slurm.conf").write_text(self._slurm_conf(dbd_port, ctld_port, node_ports))
        for shape in SHAPES:
            for number in range(shape.gpus):
                device = self.root / "dev" / f"nvidia{number}"
                if not device.exists():
                    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # /dev/null
        device = f"{self.home}/dev/nvidia"
        (self.root / "gres.conf").write_text(
            "".join(
                f"NodeName={','.join(s.nodes)} Name=gpu Type={s.gpu} File={device}[0-{s.gpus - 1}]\n" for s in SHAPES
            )
        )

    def _slurm_conf(self, dbd_port: int, ctld_port: int, node_ports: list[int]) -> str:
        host = socket.gethostname().partition(".")[0]
        ports = iter(node_ports)
        nodes = "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={next(ports)} Sockets={s.sockets} "
            f"CoresPerSocket={s.cores} ThreadsPerCore=1 RealMemory={s.memory_mb} Gres=gpu:{s.gpu}:{s.gpus}\n"
            for s in SHAPES
            for node in s.nodes
        )
        return SLURM_CONF.format(
            home=self.home,
            host=host,
            munge_socket=self._munge_socket,
            dbd_port=dbd_port,
            ctld_port=ctld_port,
            kill_wait_s=self.kill_wait_s,
            requeue_hold_s=self.requeue_hold_s,
            user_signal="SlurmctldParameters=preempt_send_user_signal" if self.preempt_send_user_signal else "",
            loopback_only=LOOPBACK_ONLY if leads_home(host) else "",
            nodes=nodes,
            partitions=PARTITIONS,
        )

    # -- stopping

    def down(self) -> bool:
        """Stop what was started, and only that: daemons, job processes, the line in /etc/hosts, the folder.
        False if there was nothing to stop."""
        self._state = self._state or self._read_state()
        if not self._state:
            return False
        # The controller first, lest it requeues the jobs of nodes that go away; the database last.
        self._stop(lambda name: name.startswith("slurmctld"))
        self._stop(lambda name: name.startswith("slurmd-"))
        wait_until(self._kill_leftovers, STOP_LIMIT_S)
        self._stop(lambda name: True)
        if self._state["hosts_line"]:
            edit_hosts(lambda lines: [line for line in lines if line != self._state["hosts_line"]])
        if self.home.is_symlink():
            self.home.unlink()
        shutil.rmtree(self.root)
        self._state = {}
        self._children.clear()
        if self._claim is not None:
            self._claim.close()
        self.log("stopped all daemons")
        return True

    def _stop(self, chosen: Callable[[str], bool]) -> None:
        daemons = [daemon for daemon in self._state["daemons"] if chosen(daemon["name"])]
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for daemon in daemons:
                send(daemon["pid"], daemon["ticks"], signum)
            if wait_until(lambda: not any(alive(daemon) for daemon in daemons), STOP_LIMIT_S):
                break
        for child in self._children:
            child.poll()  # no zombies

    def _kill_leftovers(self) -> bool:
        """Kill slurmstepds, job processes and daemons missing in the state; True when none is left."""
        table = process_table()
        doomed = {pid for pid in table if self._is_leftover(pid)}
        grown = True
        while grown:  # with all descendants: one of them may have been started with an empty environment
            children = {pid for pid, process in table.items() if process.parent in doomed}
            grown = not children <= doomed
            doomed |= children
        for pid in doomed:
            send(pid, table[pid].ticks, signal.SIGKILL)
        return not doomed

    def _is_leftover(self, pid: int) -> bool:
        if pid == os.getpid() or pid in [daemon["pid"] for daemon in self._state["daemons"]]:
            return False
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            program = os.readlink(f"/proc/{pid}/exe")
            folder = os.readlink(f"/proc/{pid}/cwd")
        except OSError:  # it has just gone
            return False
        # slurmstepd writes its title over its environment, but stays in the folder of its slurmd.
        if Path(program).name.startswith("slurmstepd"):  # Debian calls it slurmstepd-wlm
            return Path(folder) == self.root.resolve()
        # Of a job is what has SLURM_CONF and, unlike a shell that merely uses the cluster, SLURMD_NODENAME.
        in_job = any(variable.startswith(b"SLURMD_NODENAME=") for variable in environment)
        conf = f"SLURM_CONF={self.home}/slurm.conf".encode()
        return f"VEC_SLURM={self._state['name']}".encode() in environment or (in_job and conf in environment)

    # -- breaking it

    def kill_daemon(self, name: str) -> None:
        """SIGKILL to slurmctld or slurmd-<node>, as when a host breaks; the jobs that it started live on."""
        (daemon,) = [daemon for daemon in self._state["daemons"] if daemon["name"] == name]
        send(daemon["pid"], daemon["ticks"], signal.SIGKILL)
        for child in self._children:
            if child.pid == daemon["pid"]:
                child.wait()
        self._state["daemons"].remove(daemon)
        self._write_state()

    def wait_saved(self, job_id: str) -> None:
        """Until slurmctld has written to disk that this job runs: it does so up to 5 s after a change (SAVE_MAX_WAIT
        in its state_save.c), and one that is killed before then comes back with the job as it was."""
        begun = time.time()
        self.run("scontrol", "update", f"jobid={job_id}", "Comment=saved", check=True)
        file = self.home / "state" / "job_state"
        if not wait_until(lambda: file.stat().st_mtime > begun, START_LIMIT_S):
            raise ClusterError(f"slurmctld has not written {file}")

    def start_daemon(self, name: str) -> None:
        """slurmctld or slurmd-<node>, for the first time or again."""
        node = ["-N", name.removeprefix("slurmd-")] if name.startswith("slurmd-") else []
        self._start(name, "-D", *node, "-f", f"{self.home}/slurm.conf")

    # -- using it

    def env(self) -> dict[str, str]:
        """What a process needs to talk to this cluster."""
        return {"SLURM_CONF": f"{self.home}/slurm.conf"}

    def run(self, *args: str, timeout_s: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a Slurm command on this cluster; `options` go to subprocess.run. Variables of a surrounding job
        (SLURM_*, SBATCH_*) are removed: they would change what is submitted."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH_", "SALLOC_"))}
        env |= self.env() | options.pop("env", {})
        return subprocess.run(args, env=env, capture_output=True, text=True, timeout=timeout_s, **options)

    def release(self, job_id: int | str, limit_s: float = 60) -> None:
        """Let a requeued job start in 2 s instead of after the hold. While its old processes still end
        (COMPLETING), Slurm would take the new start time and then overwrite it with the hold: wait for that
        first. Not at once either: a job that starts in the second in which its old run was ended FAILS with
        'Job credential revoked'."""

        def state() -> str:
            return self.run("squeue", "-h", "-j", str(job_id), "-o", "%T").stdout.strip()

        if not wait_until(lambda: state() == "PENDING", limit_s, pause_s=0.2):
            raise ClusterError(f"job {job_id} is {state() or 'unknown'} after {limit_s:.0f} s, not requeued")
        done = self.run("scontrol", "update", f"jobid={job_id}", "StartTime=now+2")
        if done.returncode != 0:
            raise ClusterError(f"job {job_id} could not be released: {one_line(done.stderr)}")


# ------------------------------------------------------------------------------------------------------------
# Parts of the set-up that need no cluster

# The data live as long as the cluster: never wait for the disk.
FAST_DATABASE = (
    "--innodb-flush-method=nosync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--innodb-fast-shutdown=3",
    "--skip-log-bin",
)


def database_setup(password: str) -> str:
    return f"""\
CREATE DATABASE slurm_acct_db;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


def private_file(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def check_host() -> None:
    if not sys.platform.startswith("linux"):
        raise ClusterError("Slurm runs on Linux only: use a Linux host or container")
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]
    if missing:
        raise ClusterError(f"missing {', '.join(missing)}: run '{INSTALL}'")
    if os.geteuid() != 0:
        raise ClusterError("Slurm's daemons and mknod need root: become root, for instance in a container")


# ------------------------------------------------------------------------------------------------------------
# Command line


def command_up(cluster: SlurmCluster) -> None:
    if cluster.running:
        print(f"already running in {cluster.root}")
    else:
        started = time.monotonic()
        cluster.log = print
        cluster.up()
        print(f"Slurm is up in {cluster.root} after {time.monotonic() - started:.1f} s.")
    print('To use it in this shell: eval "$(make -s slurm-env)", then for example: sinfo')


def command_env(cluster: SlurmCluster) -> None:
    if not cluster.running:
        raise ClusterError(f"no cluster runs in {cluster.root}: start it with '{PROGRAM} up'")
    print(f"export SLURM_CONF={shlex.quote(cluster.env()['SLURM_CONF'])}")


def command_down(cluster: SlurmCluster) -> None:
    print(f"{cluster.root} removed" if cluster.down() else f"no cluster in {cluster.root}")


def command_status(cluster: SlurmCluster) -> None:
    for name, alive in cluster.daemons.items():
        print(f"{name:14} {'running' if alive else 'DEAD'}")
    if not cluster.running:
        raise ClusterError(f"no complete cluster runs in {cluster.root}")
    print(cluster.run("sinfo").stdout, end="")


PROGRAM = "python -m tests.slurm.cluster"
COMMANDS = {"up": command_up, "env": command_env, "down": command_down, "status": command_status}


def main() -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="A real Slurm on this host.")
    parser.add_argument("command", choices=COMMANDS)
    default = Path(tempfile.gettempdir(), f"vec-slurm-{os.getuid()}")
    parser.add_argument("--dir", type=Path, default=default, help="the cluster's folder (%(default)s)")
    options = parser.parse_args()
    try:
        COMMANDS[options.command](SlurmCluster(options.dir))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
