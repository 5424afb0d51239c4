"""The processes of a farm on one machine: what is run with which arguments and environment, in order of dependence.

    Postgres, Valkey -> migrate -> starter pool -> API, worker, trainer -> agent

Only command lines, environment names and files tie this package to the services: it imports none of them.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchfarm_standalone.children import Service
from benchfarm_standalone.home import Home
from benchfarm_standalone.probes import file_exists, http_answers


@dataclass(frozen=True)
class Tree:
    """What the services have to know of each other.

    ``listening_fd`` is the API's bound socket on loopback. ``lock_fd`` is inherited by all, see ``HomeLock``.
    ``cores`` (none: all) is where everything but the agent runs.
    """

    home: Home
    port: int
    listening_fd: int
    lock_fd: int
    shared_env: Mapping[str, str]
    cores: tuple[int, ...] = ()

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.port}"

    def bound(self, service: Service) -> Service:
        """The service, kept to the services' cores and holding the home's lock."""
        return replace(service, cores=self.cores, pass_fds=(*service.pass_fds, self.lock_fd))

    def migrate(self) -> Service:
        """One-shot: bring the schema to the newest version, then make the admin's and the local agent's first tokens
        unless they are there."""
        admin = ("--admin-token-file", str(self.home.admin_token_file))
        enrol = ("--enrol-token-file", str(self.home.enrol_token_file))
        return replace(self._python("migrate", "benchfarm_store", "migrate", *admin, *enrol), ready_within_s=600)

    def starter_pool(self) -> Service:
        """One-shot: take in the donors that come with the project. One that is refused keeps no farm from starting."""
        return self._python(
            "starter-pool", "benchfarm_worker", "starter-pool", "--told", str(self.home.starter_pool_file)
        )

    def api(self) -> Service:
        """The API on the socket that the supervisor holds: calls wait in it while the API is restarted."""
        api = self._python("api", "benchfarm_api")
        return replace(
            api,
            env={**api.env, "BENCHFARM_API_FD": str(self.listening_fd)},
            pass_fds=(*api.pass_fds, self.listening_fd),
            ready=http_answers(self.port, "/v1/ready"),
        )

    def worker(self) -> Service:
        """All queues but that of training, and the ticks, in one process group."""
        return self._with_ready_file(self._python("worker", "benchfarm_worker", "run"))

    def trainer(self) -> Service:
        """The queue of what computes for seconds; it lowers its own priority."""
        return self._with_ready_file(self._python("trainer", "benchfarm_worker", "run", "--queues", "train"))

    def agent(self) -> Service:
        """The agent for this machine itself. It places its own measurements, so it is bound to no cores."""
        place = ("--url", self.url, "--state-dir", str(self.home.agent_dir))
        enrol = ("--enrol-token-file", str(self.home.enrol_token_file))
        agent = self._with_ready_file(self._python("agent", "benchfarm_agent", "run", *place, *enrol))
        return replace(agent, cores=())

    def _python(self, name: str, *module_and_arguments: str) -> Service:
        """One of our own programs, ``python -m MODULE ARGUMENTS``."""
        env = {**self.shared_env, "PYTHONUNBUFFERED": "1"}
        argv = (sys.executable, "-m", *module_and_arguments)
        return self.bound(Service(name, argv, env=env, ready_within_s=60, grace_s=20))

    def _with_ready_file(self, service: Service) -> Service:
        """The service, told to write a file when it is ready; what an earlier process wrote is removed first."""
        ready_file = self.home.ready_file(service.name)
        return replace(
            service,
            env={**service.env, "BENCHFARM_READY_FILE": str(ready_file)},
            ready=file_exists(ready_file),
            prepare=lambda: ready_file.unlink(missing_ok=True),
        )
