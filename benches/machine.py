"""What measuring programs side by side takes: a folder, processes, and what
they cost."""

import grp
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process=None, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process and process.poll() is not None:
            sys.exit(f"a process ended early: {' '.join(process.args)}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def raise_limits():
    """As many descriptors as may be had."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Folder:
    """A folder, and the processes that run in it. As root they run as
    `user`."""

    def __init__(self, user):
        self.path = tempfile.mkdtemp(prefix="pgweir-bench-", dir="/var/tmp")
        os.chmod(self.path, 0o755)
        self.prefix = []
        if os.geteuid() == 0:
            group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
            self.prefix = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
            shutil.chown(self.path, user)
        self.children = []

    def file(self, name, text):
        """Writes a file; its path."""
        path = os.path.join(self.path, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def copy(self, program, place, name):
        """A copy of a program that `user` may run, whatever its folder."""
        copy = os.path.join(self.path, place, name)
        os.makedirs(os.path.dirname(copy))
        shutil.copy(program, copy)
        os.chmod(copy, 0o755)
        return copy

    def run(self, *command):
        subprocess.run([*self.prefix, *command], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, cwd=self.path)

    def start(self, *command):
        log = open(os.path.join(self.path, "log"), "ab")
        child = subprocess.Popen([*self.prefix, *command], stdout=log, stderr=log,
                                 stdin=subprocess.DEVNULL, cwd=self.path)
        self.children.append(child)
        return child

    def close(self):
        for child in reversed(self.children):
            child.send_signal(signal.SIGINT)
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.path, ignore_errors=True)


def processes(pid):
    """A process and its children."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [pid, *map(int, file.read().split())]


def cpu(pid):
    """Time the threads of a process and of its children ran, and how it
    divides into user and system time by the tick, in seconds."""
    run, ticks = 0, [0, 0]
    for pid in processes(pid):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                run += int(file.read().split()[0])
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        ticks = [ticks[0] + int(fields[11]), ticks[1] + int(fields[12])]
    return run / 1e9, ticks[0] / TICKS, ticks[1] / TICKS


def pss(pid):
    """Proportional set size of a process and its children, in KiB."""
    total = 0
    for pid in processes(pid):
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M).group(1))
    return total
