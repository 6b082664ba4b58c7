"""A real Slurm on one machine: two nodes with fake GPUs, and accounting (or none).

Everything lives in one scratch folder and in mount and PID namespaces of its own: no system file
changes, and when the first process of the namespaces ends the kernel ends all the others, jobs
included. Root is needed. By hand::

    python tests/cluster/mini_slurm.py up /tmp/cluster      # prints how to use it
    python tests/cluster/mini_slurm.py down /tmp/cluster
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = (
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "sbatch",
    "nsenter",
    "unshare",
)
SYSTEM_CONF = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
MARK = "SRCT_TEST_CLUSTER"  # stands in the environment of every process of a test cluster
START_WITHIN_S = 240.0
STOP_WITHIN_S = 30.0

SLURM_CONF = """\
ClusterName=srct
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/ctld
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
GresTypes=gpu
JobRequeue=1
EnforcePartLimits=ALL
KillWait=5
InactiveLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{accounting}JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=30
{nodes}
PartitionName=gpu Nodes=n1,n2 Default=YES MaxTime=60 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=60 PriorityTier=10 PreemptMode=OFF
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageEnforce=associations,qos
"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none\n"

NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=8000 "
    "Gres=gpu:v100:2"
)

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
LogFile={folder}/dbd.log
PidFile={folder}/dbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""


class CannotStart(RuntimeError):
    """This host cannot or must not run the test cluster; the message says why."""


def missing_programs() -> list[str]:
    """Name the programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def foreign_slurm() -> str | None:
    """Say what shows that this host already belongs to a Slurm, or None.

    Another test cluster is none, and neither are files that a Slurm left which is gone.
    """
    for name in ("SLURM_JOB_ID", "SLURM_CONF"):
        if name in os.environ:
            return f"{name} is set"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text().strip()
            if name in ("slurmctld", "slurmd", "slurmdbd") and not _is_ours(process):
                return f"{name} runs (process {process.name})"
    for place in SYSTEM_CONF:
        if Path(place).exists() and _controller_answers():
            return f"{place} exists, and its controller answers"
    return None


def _is_ours(process: Path) -> bool:
    return f"{MARK}=".encode() in (process / "environ").read_bytes()


def _controller_answers() -> bool:
    try:
        answer = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return " UP" in answer.stdout


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on; all are held at once, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class MiniSlurm:
    """The cluster in `folder`: `start` it, `run` commands in it, `stop` it."""

    def __init__(self, folder: Path | str, accounting: bool = True):
        self.folder = Path(folder).resolve()
        self.accounting = accounting
        self.first: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Slurm's commands find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), MARK: str(self.folder)}

    def _first_pid(self) -> int:
        """Find the first process of the namespaces, as numbered outside them."""
        return int((self.folder / "first.pid").read_text())

    def start(self, die_with_parent: bool = True) -> None:
        """Bring the cluster up and wait until both nodes are idle.

        Raises
        ------
        CannotStart
            Something is not installed, the user is not root, the host has a Slurm already, or
            a daemon ended early (its log's last lines are in the message).
        """
        if missing := missing_programs():
            raise CannotStart(f"not installed: {', '.join(missing)} (run tests/cluster/install.sh)")
        if os.geteuid() != 0:
            raise CannotStart("root is needed to bring up the test cluster")
        if found := foreign_slurm():
            raise CannotStart(f"this host has a Slurm already: {found}")
        self._write_files()
        with open(self.folder / "inside.log", "ab") as log:
            command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            # Where this process is killed, the cluster goes with it.
            guard = ["setpriv", "--pdeathsig", "KILL"] if die_with_parent else []
            self.first = subprocess.Popen(
                [*guard, *command, sys.executable, __file__, "inside", str(self.folder)],
                env={**os.environ, MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not (self.folder / "up").exists():
            if self.first is not None and self.first.poll() is not None:
                raise CannotStart(f"the test cluster ended early:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise CannotStart(f"the test cluster is not up in time:\n{self._last_words()}")
            time.sleep(0.1)
        children = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children")
        (self.folder / "first.pid").write_text(children.read_text().split()[0])

    def _last_words(self) -> str:
        logs = [*sorted(self.folder.glob("*.log"))]
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            for log in logs
        )

    def run(
        self, *command: str | Path, check: bool = True, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run one command among the daemons: same processes seen, same host names."""
        enter = ["nsenter", f"--target={self._first_pid()}", "--mount", "--pid", "--"]
        done = subprocess.run(
            # nsenter changes the folder to the root of the mount namespace.
            [
                *enter,
                "env",
                f"--chdir={options.pop('cwd', None) or Path.cwd()}",
                *map(str, command),
            ],
            env=options.pop("env", None) or self.environment,
            capture_output=True,
            text=True,
            timeout=options.pop("timeout", 120),
            **options,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def stop(self) -> None:
        """End every process of the cluster, jobs included."""
        pid_file = self.folder / "first.pid"
        if self.first is not None:
            unshare, self.first = self.first, None
            with contextlib.suppress(OSError, ValueError):
                os.kill(self._first_pid(), signal.SIGTERM)
            try:
                unshare.wait(STOP_WITHIN_S if pid_file.exists() else 0.5)
            except subprocess.TimeoutExpired:
                unshare.kill()  # and --kill-child ends the rest
                unshare.wait()
        elif pid_file.exists():
            pid = self._first_pid()
            deadline = time.monotonic() + STOP_WITHIN_S
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                while time.monotonic() < deadline:
                    os.kill(pid, 0)
                    time.sleep(0.1)
                os.kill(pid, signal.SIGKILL)
        pid_file.unlink(missing_ok=True)
        (self.folder / "up").unlink(missing_ok=True)

    def _write_files(self) -> None:
        folder = self.folder
        if folder.exists() and any(folder.iterdir()):
            raise CannotStart(f"{folder}: is not empty")
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        munge = folder / "munge"
        for made in (munge, folder / "ctld", *(folder / f"spool-{n}" for n in NODES)):
            made.mkdir()
        key = munge / "key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(1024))
        host = socket.gethostname().split(".")[0]
        ctld_port, dbd_port, sql_port, *node_ports = free_ports(3 + len(NODES))
        values = {
            "folder": folder,
            "host": host,
            "ctld_port": ctld_port,
            "dbd_port": dbd_port,
            "sql_port": sql_port,
            "password": secrets.token_hex(16),
            "nodes": "\n".join(
                NODE.format(name=name, host=host, port=port)
                for name, port in zip(NODES, node_ports, strict=True)
            ),
        }
        accounting = ACCOUNTING.format(**values) if self.accounting else NO_ACCOUNTING
        (folder / "slurm.conf").write_text(SLURM_CONF.format(accounting=accounting, **values))
        dbd = folder / "slurmdbd.conf"
        dbd.touch(mode=0o600)
        dbd.write_text(SLURMDBD_CONF.format(**values))
        gpus = [folder / f"gpu{i}" for i in range(2)]
        for gpu in gpus:
            os.mknod(gpu, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # what /dev/null is
        (folder / "gres.conf").write_text(
            "".join(f"NodeName={n} Name=gpu Type=v100 File={folder}/gpu[0-1]\n" for n in NODES)
        )
        # Without the node names rendezvous by name hangs until its time-out.
        names = f"127.0.0.1 localhost {' '.join(dict.fromkeys((host, *NODES)))}\n"
        (folder / "hosts").write_text(names + "::1 localhost\n")
        private = folder / "private"
        private.touch(mode=0o600)
        if self.accounting:
            private.write_text(f"{dbd_port} {sql_port} {values['password']}")


class Inside:
    """The first process of the namespaces: starts the daemons, reaps, and ends them in order."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: dict[int, str] = {}
        # Popen reaps a process whose object was dropped, and its end would go unnoticed.
        self.kept: list[subprocess.Popen[bytes]] = []
        self.asked_to_stop = False

    def run(self) -> None:
        """Start everything, wait for the word to stop, stop everything."""
        signal.signal(signal.SIGTERM, self._on_term)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        subprocess.run(
            ["mount", "--bind", str(self.folder / "hosts"), "/etc/hosts"],
            check=True,
        )
        self._start_all()
        (self.folder / "up").touch()
        while not self.asked_to_stop:
            self._reap()
            time.sleep(0.1)
        self._stop_all()

    def _on_term(self, *_: object) -> None:
        self.asked_to_stop = True

    def _start_all(self) -> None:
        munge = self.folder / "munge"
        # As root, since a scratch folder is often closed to other users; --force allows that.
        self._daemon(
            "munged",
            [
                *("munged", "--foreground", "--force"),
                *(f"--key-file={munge}/key", f"--socket={munge}/socket"),
                *(f"--pid-file={munge}/pid", f"--log-file={munge}/log"),
                f"--seed-file={munge}/seed",
            ],
        )
        self._wait("munge", lambda: (munge / "socket").exists())
        if private := (self.folder / "private").read_text().split():
            self._start_accounting(*private)
        self._daemon("slurmctld", ["slurmctld", "-D", "-f", os.environ["SLURM_CONF"]])
        for node in NODES:
            self._daemon("slurmd", ["slurmd", "-D", "-N", node, "-f", os.environ["SLURM_CONF"]])
        self._wait("both nodes", _nodes_are_idle)

    def _start_accounting(self, dbd_port: str, sql_port: str, password: str) -> None:
        self._start_database(sql_port, password)
        self._daemon("slurmdbd", ["slurmdbd", "-D"])
        self._wait("slurmdbd", lambda: _listens(int(dbd_port)))
        for words in (
            ["add", "cluster", "srct"],
            ["add", "account", "test", "cluster=srct", "Description=test", "Organization=test"],
            ["add", "qos", "normal"],
            ["add", "user", "root", "account=test", "cluster=srct"],
        ):
            # "Already exists" is an error too: what counts is that both daemons start.
            subprocess.run(["sacctmgr", "-i", *words], stdin=subprocess.DEVNULL)

    def _start_database(self, port: str, password: str) -> None:
        data, sock = self.folder / "sql", self.folder / "sql.socket"
        data.mkdir()
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self._daemon(
            "mariadbd",
            [
                *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}"),
                *(f"--socket={sock}", "--bind-address=127.0.0.1", f"--port={port}"),
                *(f"--pid-file={self.folder}/sql.pid", f"--log-error={self.folder}/sql.log"),
                # A throw-away database on a small machine.
                *("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"),
                *("--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900"),
            ],
        )
        self._wait("mariadb", lambda: sock.exists() and _listens(int(port)))
        statements = (
            "CREATE DATABASE slurm;"
            f"CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';"
            f"CREATE USER slurm@localhost IDENTIFIED BY '{password}';"
            "GRANT ALL ON slurm.* TO slurm@'127.0.0.1'; GRANT ALL ON slurm.* TO slurm@localhost;"
        )
        subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={sock}", "--user=root"],
            input=statements.encode(),
            check=True,
        )

    def _daemon(self, name: str, command: Sequence[str]) -> None:
        # The words that would make systemd's notification or a parent's job matter are left out.
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM_JOB", "PMI"))
        }
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        self.daemons[process.pid] = name
        self.kept.append(process)

    def _wait(self, what: str, ready: object) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not ready():
            self._reap()
            if self.asked_to_stop:
                sys.exit(1)
            if time.monotonic() > deadline:
                sys.exit(f"{what}: not ready in time")
            time.sleep(0.1)

    def _reap(self) -> None:
        """Collect ended processes (orphans of jobs too); a daemon that ends ends the cluster."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self.daemons.pop(pid, None)
            if name and not self.asked_to_stop:
                sys.exit(f"{name} ended early ({os.waitstatus_to_exitcode(status)})")

    def _stop_all(self) -> None:
        subprocess.run(["scancel", "--user=root"], stdin=subprocess.DEVNULL)
        for names in (("slurmctld",), ("slurmd",), ("slurmdbd",), ("mariadbd", "munged")):
            pids = [pid for pid, name in self.daemons.items() if name in names]
            self._signal(pids, signal.SIGTERM)
            deadline = time.monotonic() + 5
            while any(pid in self.daemons for pid in pids) and time.monotonic() < deadline:
                self._reap()
                time.sleep(0.05)
            self._signal((pid for pid in pids if pid in self.daemons), signal.SIGKILL)

    @staticmethod
    def _signal(pids: Iterable[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _nodes_are_idle() -> bool:
    answer = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%N %t", "--partition=gpu"],
        capture_output=True,
        text=True,
    )
    return sorted(answer.stdout.split("\n")[:-1]) == [f"{node} idle" for node in NODES]


def main(words: Sequence[str]) -> None:
    """``up FOLDER`` or ``down FOLDER``."""
    if len(words) != 2 or words[0] not in ("up", "down", "inside"):
        sys.exit("usage: mini_slurm.py up|down FOLDER")
    action, folder = words[0], Path(words[1])
    if action == "inside":
        Inside(folder).run()
    elif action == "down":
        MiniSlurm(folder).stop()
    else:
        cluster = MiniSlurm(folder)
        try:
            cluster.start(die_with_parent=False)
        except CannotStart as error:
            sys.exit(f"error: {error}")
        print(
            f"up; enter it with:\n  export SLURM_CONF={cluster.folder}/slurm.conf\n"
            f"  nsenter --target={cluster._first_pid()} --mount --pid bash"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
