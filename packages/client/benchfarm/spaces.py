"""Search spaces: the farm draws architectures and checks them; nothing of that is computed here."""

from collections.abc import Mapping, Sequence

from benchfarm.connection import Connection, path_part
from benchfarm_core.architectures import GeneValues
from benchfarm_core.errors import NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.spaces import ArchitectureKernels, DrawnArchitecture, DrawnArchitectures, SpaceView
from benchfarm_core.workloads import ArchitectureRequest


class Spaces:
    """The farm's search spaces."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Sequence[SpaceView]:
        """All of them, with their genes."""
        return self._connection.read(Page[SpaceView], "/spaces", params={"limit": 1000}).items

    def get(self, name: str) -> SpaceView:
        """One of them. Raises NotFound."""
        known = {found.name: found for found in self.list()}
        if name not in known:
            raise NotFound(f"there is no search space {name!r}; there are {', '.join(known)}", field="space")
        return known[name]

    def draw(self, name: str, *, seed: str = "0", count: int = 1) -> Sequence[ArchitectureRequest]:
        """Different architectures, ready to be submitted; the same for the same seed. Raises NotFound."""
        return [drawn.request for drawn in self.drawn(name, seed=seed, count=count)]

    def drawn(self, name: str, *, seed: str = "0", count: int = 1) -> Sequence[DrawnArchitecture]:
        """What `draw` gives, with the ids of the workloads. Raises NotFound."""
        path = f"/spaces/{path_part(name)}/draws"
        return self._connection.read(DrawnArchitectures, path, params={"seed": seed, "count": count}).items

    def kernels(self, name: str, genes: Mapping[str, GeneValues], platform: str | None = None) -> ArchitectureKernels:
        """An architecture's canonical genes, cost and kernels, by what a platform's engine fuses.

        Raises:
            NotFound: no such space.
            InvalidRequest: a gene is out of range, or there is no such platform.
        """
        body = {"genes": dict(genes), "platform": platform}
        answer = self._connection.request("POST", f"/spaces/{path_part(name)}/kernels", json=body, repeatable=True)
        return self._connection.value(ArchitectureKernels, answer)
