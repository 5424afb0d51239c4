"""sshd as a Linux board, with OpenSSH's own client."""

import subprocess

import pytest

from tests.peers.sshd import HOME, UID
from tests.peers.waiting import wait_until

pytestmark = pytest.mark.root


def test_commands_run_as_another_user(ssh_host):
    done = ssh_host.run("id -u; pwd; echo err >&2; exit 7")
    assert done.returncode == 7
    assert done.stdout.decode().split() == [str(UID), HOME]
    assert done.stderr == b"err\n"


def test_it_has_a_home_of_its_own_and_python(ssh_host):
    assert ssh_host.ssh.run("cat > pushed && chmod 700 pushed", stdin=b"#!/bin/sh\nexit 3\n").returncode == 0
    assert (ssh_host.home / "pushed").stat().st_uid == UID
    assert ssh_host.run("./pushed").returncode == 3
    assert ssh_host.run("/usr/bin/python3 -c 'import sys; print(sys.version_info >= (3, 9))'").stdout == b"True\n"


def test_it_reaches_nothing(ssh_host):
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
    assert b"Network is unreachable" in ssh_host.run(f'/usr/bin/python3 -c "{code}"').stderr


def test_nobody_else_gets_in(ssh_host, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    target = ssh_host.ssh
    foreign = type(target)(target.host, target.port, target.user, tmp_path / "other", target.known_hosts_file)
    refused = foreign.run("true")
    assert refused.returncode == 255
    assert b"Permission denied" in refused.stderr


def test_a_changed_host_key_is_refused_and_the_new_one_accepted(ssh_host):
    old = ssh_host.ssh
    assert old.run("true").returncode == 0
    ssh_host.change_host_key()
    refused = old.run("true")
    assert refused.returncode == 255
    assert b"Host key verification failed" in refused.stderr
    assert ssh_host.run("true").returncode == 0


def test_an_unplugged_host_is_not_reached(ssh_host):
    ssh_host.relay.unplug()
    assert ssh_host.run("true").returncode == 255
    ssh_host.relay.plug()
    assert ssh_host.run("true").returncode == 0


def test_a_hanging_host_answers_nothing(ssh_host):
    ssh_host.relay.hang()
    with pytest.raises(subprocess.TimeoutExpired):
        ssh_host.ssh.run("true", limit_s=1)


def test_a_reset_leaves_nothing(ssh_host):
    assert ssh_host.run("echo x > x; setsid sleep 1000 > /dev/null 2>&1 < /dev/null & true").returncode == 0
    assert b"sleep 1000" in ssh_host.run("ps -ef").stdout
    ssh_host.reset()
    assert list(ssh_host.home.iterdir()) == []
    wait_until(lambda: b"sleep 1000" not in ssh_host.run("ps -ef").stdout, "the process is gone", 5)
