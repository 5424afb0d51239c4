"""The beginning of a bundle, run as `python3 FILE run` by a Python that has nothing but its standard library.

Looks whether this is the machine that the bundle was packed for, unpacks it into a private folder with every hash
checked, and goes on in there with `bundle_run`. Older Pythons than ours read it too, so that they hear what is missing.
"""

import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import zipfile
from typing import Any

CONTENTS = "CONTENTS"
"""The list of the hashes of all other files, in the form of `sha256sum`."""
ORDER = "order.json"
WHOLE = ".whole"
"""In the private folder: the hash of the list whose files it holds."""
ROOM = 1.1
EXIT_USAGE = 2
EXIT_REFUSED = 3
USAGE = """usage: python3 {file} run [--out DIR] [--work DIR]    measure, and write one results file to DIR
       python3 {file} clean [--work DIR]              remove what an interrupted run left
       python3 {file} show                            what it is and what it measures
DIR: the present folder. The private folder lies below it, unless --work names another place for it."""


class Refused(Exception):
    """The bundle cannot run here; the text says why and what to do."""


def main(arguments: "list[str]", bundle: str) -> int:
    """Runs one command of a bundle; returns its exit code."""
    options = _options(arguments)
    if options is None:
        sys.stderr.write(USAGE.format(file=os.path.basename(bundle)) + "\n")
        return EXIT_USAGE
    try:
        with zipfile.ZipFile(bundle) as packed:
            return _command(packed, options)
    except Refused as error:
        sys.stderr.write(f"bundle: {error}\n")
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        sys.stderr.write(f"bundle: the file is damaged, copy it again ({error})\n")
    except OSError as error:
        sys.stderr.write(f"bundle: {error.filename or 'this machine'}: {error.strerror}\n")
    return EXIT_REFUSED


def _options(arguments: "list[str]") -> "dict[str, str] | None":
    command, given = arguments[:1], arguments[1:]
    names = given[::2]
    if command not in (["run"], ["clean"], ["show"]) or len(given) % 2 or not set(names) <= {"--out", "--work"}:
        return None
    options = dict(zip(names, given[1::2]))  # noqa: B905  (older Pythons)
    out = os.path.abspath(options.get("--out", "."))
    return {"command": command[0], "out": out, "work": os.path.abspath(options.get("--work", out))}


def _command(packed: zipfile.ZipFile, options: "dict[str, str]") -> int:
    order = json.loads(packed.read(ORDER).decode())
    folder = os.path.join(options["work"], ".benchfarm-" + order["bundle_id"])
    if options["command"] == "show":
        _show(order)
        return 0
    if options["command"] == "clean":
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    _check_machine(order["target"])
    _unpack(packed, folder)
    return _go_on(folder, options["out"])


def _go_on(folder: str, out: str) -> int:
    """Becomes the work itself, from its own files."""
    start = os.path.join(folder, "bundle", "run.py")
    os.execv(sys.executable, [sys.executable, "-I", "-B", start, folder, out])  # noqa: S606


def _show(order: "dict[str, Any]") -> None:
    engine = f"{order['engine']} {order['precision']} on {order['threads']} threads"
    lines = [
        f"{order['bundle_id']} of the farm {order['farm']}",
        f"for {order['target']}, good until {order['expires_at']}",
        f"{len(order['items'])} measurements with {engine}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _check_machine(target: str) -> None:
    own = f"{sys.platform}-{platform.machine()}-cp3{sys.version_info[1]}"
    if sys.version_info[0] != 3 or own != target or platform.python_implementation() != "CPython":
        wanted = target.rpartition("-cp3")[2]
        raise Refused(
            f"it was packed for {target}, and this is {own}: start it with python3.{wanted} on such a machine, "
            "or have one made for this one"
        )
    if platform.libc_ver()[0] != "glibc":
        raise Refused("its packages need glibc, which this Python was not built with")


def _unpack(packed: zipfile.ZipFile, folder: str) -> None:
    """Brings the private folder to the bundle's files, whole; what an interrupted run measured stays."""
    listed = packed.read(CONTENTS)
    hashes = _hashes(listed)
    name = hashlib.sha256(listed).hexdigest()
    mark = os.path.join(folder, WHOLE)
    if _is_own(folder) and _is_whole(folder, name, hashes):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _check_room(packed, folder)
        _extract(packed, hashes, os.path.join(folder, "bundle"))
        with open(mark, "w") as file:
            file.write(name)
    except BaseException:  # boundary: whatever ends it, nothing half unpacked stays
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_own(folder: str) -> bool:
    """Whether it is there, made by this user and for this user alone. Whoever else made it may have put code there."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Refused(
            f"{folder} is not a folder that this user alone can write: somebody else may have put it there. "
            "Look at it, remove it, or name another place with --work"
        )
    os.chmod(folder, _private_mode())
    return True


def _private_mode() -> int:
    # others may pass through it but list nothing: a runner may be another user, where root starts it
    return 0o711 if os.geteuid() == 0 else 0o700


def _is_whole(folder: str, name: str, hashes: "dict[str, str]") -> bool:
    """Whether it holds what the bundle was unpacked to, still the same, and no other file beside it."""
    try:
        with open(os.path.join(folder, WHOLE)) as file:
            if file.read() != name:
                return False
        return _hashes_below(os.path.join(folder, "bundle")) == dict(hashes, **{CONTENTS: name})
    except OSError:
        return False


def _hashes_below(folder: str) -> "dict[str, str]":
    """The hash of each file; what is neither a file nor a folder has none that fits."""
    found = {}
    for place, folders, names in os.walk(folder):
        for path in [os.path.join(place, one) for one in names + folders]:
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                found[os.path.relpath(path, folder)] = _sha256(path)
            elif not stat.S_ISDIR(mode):
                found[os.path.relpath(path, folder)] = ""
    return found


def _sha256(path: str) -> str:
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(2**20), b""):
            seen.update(part)
    return seen.hexdigest()


def _check_room(packed: zipfile.ZipFile, folder: str) -> None:
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    os.mkdir(folder, 0o700)  # fails where somebody else was quicker
    os.chmod(folder, _private_mode())
    needed = int(sum(entry.file_size for entry in packed.infolist()) * ROOM)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            f"it needs {needed // 10**6 + 1} MB of room in {os.path.dirname(folder)} and there are {free // 10**6}: "
            "name another folder with --work"
        )


def _hashes(listed: bytes) -> "dict[str, str]":
    found = {}
    for line in listed.decode().splitlines():
        sha256, _, path = line.partition("  ")
        if path.startswith("/") or ".." in path.split("/"):
            raise Refused("it names files outside its folder: it was changed")
        found[path] = sha256
    return found


def _extract(packed: zipfile.ZipFile, hashes: "dict[str, str]", folder: str) -> None:
    for path, sha256 in hashes.items():
        target = os.path.join(folder, *path.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with packed.open(path) as source, open(target, "wb") as file:
            seen = hashlib.sha256()
            for part in iter(lambda: source.read(2**20), b""):
                seen.update(part)
                file.write(part)
        if seen.hexdigest() != sha256:
            raise Refused(f"its file {path} is damaged or was changed: copy the bundle again")
    if ORDER in hashes:
        os.chmod(os.path.join(folder, ORDER), 0o600)  # the key is in it
    with open(os.path.join(folder, CONTENTS), "w") as file:
        file.writelines(f"{sha256}  {path}\n" for path, sha256 in hashes.items())


if __name__ == "__main__":
    # within the zip file this module is `__main__`, and the file itself the first entry of the path
    os.umask(0o022)
    sys.exit(main(sys.argv[1:], sys.path[0]))
