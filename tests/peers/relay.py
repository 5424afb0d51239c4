"""A loopback port that passes bytes on to a peer, and what can go wrong with a cable on the way."""

import contextlib
import socket
import threading
from collections.abc import Callable

CHUNK_BYTES = 1 << 18
# A slow link passes this much of a second at a time, so that it can be cut in between.
SLOW_SLICE_S = 0.05
CHECK_S = 0.05


class _Connection:
    """One accepted connection: the caller's socket and, once there is one, the peer's."""

    def __init__(self, caller: socket.socket) -> None:
        self.sockets = [caller]
        self.is_cut = threading.Event()

    def cut(self) -> None:
        self.is_cut.set()
        for end in tuple(self.sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for end in self.sockets:
            end.close()


class Relay:
    """Listens on 127.0.0.1 at `port` and passes on to what `connect` opens, plugged in from the start.

    Its knobs may be turned from any thread; each holds until it is turned back or `reset` is called.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._flows = threading.Event()
        self._lock = threading.RLock()
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._threads: set[threading.Thread] = set()
        self._is_silent = False
        self._delay_s = 0.0
        self._bytes_per_s: float | None = None
        self.port = 0
        self.reset()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_plugged(self) -> bool:
        return self._listener is not None

    def reset(self) -> None:
        """A cable without faults; connections that run stay."""
        self.slow()
        self.flow()
        self.answer()
        self.plug()

    def plug(self) -> None:
        """Listens at the port it had, at any free one the first time. Harmless when plugged in."""
        with self._lock:
            if self._listener is not None:
                return
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self.port = self._listener.getsockname()[1]
            self._spawn(self._accept, self._listener)

    def unplug(self) -> None:
        """Refuses new connections and cuts those that run. Harmless when unplugged."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            # shutdown wakes the thread that accepts; close alone does not
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()

    def move(self) -> None:
        """Comes back at another port."""
        self.unplug()
        self.port = 0
        self.plug()

    def cut(self) -> None:
        """Ends the connections that run."""
        with self._lock:
            running = tuple(self._connections)
        for connection in running:
            connection.cut()

    def hang(self) -> None:
        """Passes nothing on any more; connections stay up and new ones are accepted."""
        self._flows.clear()

    def flow(self) -> None:
        """Passes on what waited and what comes."""
        self._flows.set()

    def go_silent(self) -> None:
        """Cuts what runs; accepts new connections and never answers on them."""
        self._is_silent = True
        self.cut()

    def answer(self) -> None:
        """Serves new connections again. Those that met silence are cut."""
        if self._is_silent:
            self._is_silent = False
            self.cut()

    def slow(self, delay_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """Each piece passes after `delay_s`, in each direction `bytes_per_s` at most; by default without a fault."""
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s

    def end(self) -> None:
        """Unplugged, and no thread is left."""
        self.unplug()
        self.flow()
        with self._lock:
            left = tuple(self._threads)
        for thread in left:
            thread.join(5)

    def _spawn(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(work, *arguments), daemon=True)
        with self._lock:  # `end` never meets one that has not started
            self._threads.add(thread)
            thread.start()
        return thread

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        finally:
            self._threads.discard(threading.current_thread())

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(caller)
            with self._lock:
                is_welcome = self._listener is listener
                self._connections.add(connection)
            if not is_welcome:
                connection.cut()
            self._spawn(self._serve, connection)

    def _serve(self, connection: _Connection) -> None:
        try:
            if self._is_silent:
                self._swallow(connection)
            else:
                self._join(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    @staticmethod
    def _swallow(connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while connection.sockets[0].recv(CHUNK_BYTES):
                continue

    def _join(self, connection: _Connection) -> None:
        try:
            peer = self._connect()
        except OSError:
            return
        peer.settimeout(None)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = connection.sockets[0]
        connection.sockets.append(peer)
        if connection.is_cut.is_set():
            return
        back = self._spawn(self._pump, peer, caller, connection)
        self._pump(caller, peer, connection)
        back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(self._piece_bytes())) and self._may_pass(len(data), connection):
                sink.sendall(data)
        connection.cut()

    def _piece_bytes(self) -> int:
        if self._bytes_per_s is None:
            return CHUNK_BYTES
        return max(1, min(CHUNK_BYTES, int(self._bytes_per_s * SLOW_SLICE_S)))

    def _may_pass(self, size_bytes: int, connection: _Connection) -> bool:
        """Waits as long as the link takes. False once the connection was cut."""
        pause_s = self._delay_s + (size_bytes / self._bytes_per_s if self._bytes_per_s else 0.0)
        if pause_s and connection.is_cut.wait(pause_s):
            return False
        while not self._flows.wait(CHECK_S):
            if connection.is_cut.is_set():
                return False
        return not connection.is_cut.is_set()
