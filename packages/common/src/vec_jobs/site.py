"""What Slurm says of the site at hand: a few queries, for the doctor."""

import os
import pwd
import re
import subprocess
from dataclasses import dataclass

from common import slurm
from common.errors import UserError

_GONE = ("down", "drain", "fail", "unknown", "inval")  # beginnings of states that somebody has to mend


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike; a partition without nodes has one of `count` 0."""

    partition: str
    default: bool  # jobs that name no partition go there
    up: bool  # the partition
    max_time_min: int | None  # None: no limit
    cpus: int  # of one node
    memory_mb: int  # of one node
    gpus: dict[str, int]  # of one node by type; "" where they have none
    state: str
    count: int

    @property
    def memory_gb(self) -> int:
        """GiB, as one asks for them."""
        return self.memory_mb // 1024

    @property
    def usable(self) -> bool:
        """Whether jobs start there, now or later."""
        return self.count > 0 and not self.state.startswith(_GONE)


@dataclass(frozen=True)
class Association:
    """That you may charge an account."""

    account: str
    qos: list[str]  # empty: any


@dataclass(frozen=True)
class Site:
    config: dict[str, str]  # of slurm.conf
    nodes: list[Nodes]
    associations: list[Association] | None  # yours; None: sacctmgr does not answer
    qos: set[str] | None  # all of them; None: sacctmgr does not answer
    sacct: bool  # whether it answers

    @property
    def name(self) -> str:
        return self.config.get("ClusterName", "")

    @property
    def partitions(self) -> set[str]:
        return {nodes.partition for nodes in self.nodes}

    @property
    def needs_account(self) -> bool:
        """Whether a job without a known account is refused."""
        enforced = self.config.get("AccountingStorageEnforce", "").split(",")
        return not {"associations", "limits", "qos", "safe", "wckeys", "all"}.isdisjoint(enforced)

    @property
    def sends_user_signal(self) -> bool:
        """Whether a preempted job gets the signal of its --signal; the option moved after Slurm 22.05."""
        words = ("PreemptParameters", "SlurmctldParameters")
        return any("send_user_signal" in self.config.get(word, "") for word in words)

    @property
    def facts(self) -> dict[str, int | bool | None]:
        """Those of common.cluster.Site that are one number or word."""
        return {
            "max_array_size": number(self.config.get("MaxArraySize", "")),
            "kill_wait_s": number(self.config.get("KillWait", "")),
            "preempt_send_user_signal": self.sends_user_signal,
            "sacct": self.sacct,
        }


def ask() -> Site:
    """The site that this machine's Slurm commands talk to.

    Raises:
        UserError: there is no Slurm here, or it does not answer.
    """
    slurm.check_available()
    with slurm.clean_environment():
        lines = _lines("sinfo", "-a", "-e", "-h", "-o", "%P|%a|%l|%c|%m|%G|%T|%D")
        config = slurm.configuration()
        if not lines or not config:
            raise UserError("Slurm does not answer here (sinfo, scontrol show config): ask again later, or the site.")
        user = pwd.getpwuid(os.getuid()).pw_name  # $USER may say anything
        where = ["where", f"user={user}", f"cluster={config.get('ClusterName', '')}"]
        mine = _lines("sacctmgr", "-n", "-P", "show", "assoc", *where, "format=account,qos")
        qos = _lines("sacctmgr", "-n", "-P", "show", "qos", "format=name")
        accounted = _lines("sacct", "-n", "-X", "-P", "-o", "JobID", "-S", "now")
    return Site(
        config=config,
        nodes=[parse_nodes(line) for line in lines],
        associations=None if mine is None else [parse_association(line) for line in mine],
        qos=None if qos is None else set(qos),
        sacct=accounted is not None,
    )


def _lines(*command: str) -> list[str] | None:
    """What a command prints; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line for line in done.stdout.splitlines() if line] if done.returncode == 0 else None


def parse_nodes(line: str) -> Nodes:
    """`a40*|up|7-00:00:00|32|176000|gpu:a40:4(S:0-1)|idle|2` of sinfo."""
    name, up, limit, cpus, memory, gres, state, count = line.split("|")
    return Nodes(
        partition=name.removesuffix("*"),
        default=name.endswith("*"),
        up=up == "up",
        max_time_min=minutes(limit),
        cpus=number(cpus) or 0,
        memory_mb=number(memory) or 0,
        gpus=gpus(gres),
        state=state,
        count=number(count) or 0,
    )


def parse_association(line: str) -> Association:
    """`vec|fast,normal` of sacctmgr."""
    account, _, qos = line.partition("|")
    return Association(account, [name for name in qos.split(",") if name])


def gpus(gres: str) -> dict[str, int]:
    """`gpu:a100:4(S:0-1),gpu:3,mps:400` -> `{"a100": 4, "": 3}`."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([^:,(]+))??(?::(\d+))?(?=[(,]|$)", gres):
        found[kind] = found.get(kind, 0) + int(count or 1)
    return found


def minutes(limit: str) -> int | None:
    """A time limit as Slurm writes it, `[days-]hours:minutes:seconds` or `minutes:seconds`; None for infinite."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return None
    days, hours, mins, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + mins


def number(text: str) -> int | None:
    """`30 sec` -> 30, `64+` -> 64."""
    match = re.match(r"\d+", text)
    return int(match.group()) if match else None
