"""Shell text that runs on boards: for any POSIX `sh` (dash, mksh, busybox ash) with setsid, head, sleep, cat.

No word from outside is part of a script: all arrive as quoted parameters. Scripts hold no single quote, no backslash
and no exclamation mark, so that the login shell of an SSH account, which sees them first, passes them on as they are.
"""

import math
import re
import secrets
import shlex
from collections.abc import Sequence
from typing import Final

from benchfarm_core.errors import InvalidRequest

TEXT_BYTES_MAX: Final = 2**16
"""The largest file that `reading` gives whole; a larger one is no small text file."""
COMMAND_BYTES_MAX: Final = 48_000
"""adb counts a command in four hexadecimal digits, and a kernel takes 128 KiB as one argument."""
REFUSED: Final = 125
FOLDERS: Final = '/data/local/tmp "${TMPDIR:-/tmp}" "$HOME"'
"""Where a board may let us write, in the order in which they are tried."""
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

# Two things end the command whatever happens to the agent: the connection's end, which closes the shell's standard
# input (fd 3), and the time limit. The sleeping child is in the command's own group and goes with it. `p` names the
# group, because setsid has no reason to fork in the background of a shell without job control. Who refuses goes on
# reading: a connection that is closed upon somebody who still sends may lose what was said last.
_SUPERVISED: Final = f"""
name=$1 limit=$2 size=$3 leader=$4 timed=$5
shift 5
refuse() {{ echo "$name $1" >&2; cat <&3 >/dev/null; exit 125; }}
exec 3<&0 </dev/null
trap : HUP PIPE
in=/dev/null d= u=
if [ -n "$name" ]; then
  for t in {FOLDERS}; do
    [ -n "$t" ] && [ -d "$t" ] && [ -w "$t" ] && mkdir -m 700 "$t/$name" && d=$t/$name && break
  done
  [ -n "$d" ] || refuse "finds no folder on this board"
  [ -r {_BOOT_ID} ] && read -r b <{_BOOT_ID} && echo "$b" >"$d/boot"
  in=$d/stdin
  head -c "$size" <&3 | cat >"$in" || {{ rm -rf "$d"; refuse "has no room for its input"; }}
fi
[ -z "$timed" ] || read -r u x 2>/dev/null </proc/uptime
setsid sh -c "$leader" sh "$limit" "$@" <"$in" 3<&- &
p=$!
[ -z "$d" ] || echo "$p" >"$d/pid"
(read -r x <&3; kill -KILL "-$p" || kill -KILL "$p") </dev/null >/dev/null 2>&1 &
w=$!
wait "$p"
r=$?
v=
[ -z "$u" ] || read -r v x 2>/dev/null </proc/uptime
kill -KILL "-$p" "$w" 2>/dev/null
[ -z "$v" ] || echo "$name:ran $u $v" >&2
[ -z "$d" ] || rm -rf "$d"
exit "$r"
"""

_LEADER: Final = 'l=$1; shift; (sleep "$l"; kill -KILL 0) </dev/null >/dev/null 2>&1 & exec "$@"'

_ENDING: Final = f"""
for t in {FOLDERS}; do
  d=$t/$1
  [ -n "$t" ] && [ -d "$d" ] || continue
  p=$(cat "$d/pid" 2>/dev/null)
  [ -z "$p" ] || kill -KILL "-$p" 2>/dev/null
  i=0
  while [ -d "$d" ] && [ "$i" -lt 40 ]; do sleep 0.05 || sleep 1; i=$((i + 1)); done
  rm -rf "$d"
done
"""

# What a call left behind when the board lost its power; a folder of this boot may belong to a call in progress, and one
# without either file to something else of ours.
SWEEPING: Final = """
boot=
[ -r BOOT_ID ] && read -r boot <BOOT_ID
for t in FOLDERS; do
  for d in "$t"/.benchfarm-????????????????; do
    [ -n "$t" ] && [ -d "$d" ] && { [ -e "$d/stdin" ] || [ -e "$d/boot" ]; } || continue
    was=
    [ -f "$d/boot" ] && read -r was <"$d/boot"
    [ "$was" = "$boot" ] || rm -rf "$d"
  done
done
""".replace("FOLDERS", FOLDERS).replace("BOOT_ID", _BOOT_ID)

# A new process for each file would be most of the time: what is in sysfs the shell reads by itself. It cannot tell an
# empty file from an error and drops NULs, so head reads what came to nothing, device trees and all other files.
_READING: Final = """
n=$1
shift
if [ -n "$KSH_VERSION" ]; then say() { print -r -- "$1"; }; else say() { printf %s "$1"; echo; }; fi
echo "$n"
for f; do
  r=1 t=
  if [ -f "$f" ]; then
    case $f in
      /sys/firmware/*) ;;
      /sys/*) { while IFS= read -r l || [ -n "$l" ]; do t=1; say "$l"; done <"$f"; } 2>/dev/null && r=0 ;;
    esac
    [ -n "$t" ] || { head -c BYTES "$f" 2>/dev/null; r=$?; }
  fi
  echo
  echo "$n$r"
done
""".replace("BYTES", str(TEXT_BYTES_MAX + 1))

# cat says why a write fails, which not every printf and not every head does.
_WRITING: Final = """
if [ -e "$1" ]; then printf %s "$2" | cat >"$1"; else echo "$1: no such file" >&2; exit 1; fi
"""

_STORING: Final = """
mkdir -p "${1%/*}/" && head -c "$3" | cat >"$2" && [ "$(($(wc -c <"$2")))" -eq "$3" ] &&
  chmod "$4" "$2" && mv -f "$2" "$1" && exit
rm -f "$2"
cat >/dev/null
exit 1
"""

_FETCHING: Final = """
[ -f "$1" ] || { echo "$1: no such file" >&2; exit 1; }
exec cat "$1"
"""


def new_name() -> str:
    """A name that nothing on a board has yet, for what belongs to one call."""
    return f".benchfarm-{secrets.token_hex(8)}"


def quoted(words: Sequence[str]) -> str:
    """Words for a POSIX shell, each of which stays one. Raises InvalidRequest for a NUL, which no program takes."""
    if any("\0" in word for word in words):
        raise InvalidRequest("a command or path for a board contains a NUL")
    return shlex.join(words)


def command(script: str, *parameters: str) -> str:
    """The text that makes any login shell run a script with these parameters."""
    return f"exec sh -c {quoted([script, 'sh', *parameters])}"


def supervised(
    argv: Sequence[str], *, limit_s: float, name: str = "", stdin_bytes: int = 0, is_timed: bool = False
) -> str:
    """A command as a process group of its own, ended by the end of the connection or after `limit_s`.

    With a `name` the first `stdin_bytes` from the connection are its standard input; a folder of that name keeps
    them, and the number of the group for `ending`, until it is over. A board that cannot keep them says so on the
    standard error, with the name, see `is_refused`. One that is timed ends with how long it took, see `timed`.
    """
    words = (name, str(math.ceil(limit_s)), str(stdin_bytes), _LEADER, "1" if is_timed else "")
    return command(_SUPERVISED, *words, *argv)


def timed(name: str, stderr: bytes) -> tuple[bytes, float | None]:
    """What a timed command said by itself, and for how many seconds of the board's clock it ran; None where unknown."""
    told = re.search(re.escape(name.encode()) + rb":ran ([0-9]{1,12}\.[0-9]{2}) ([0-9]{1,12}\.[0-9]{2})\n$", stderr)
    if told is None:
        return stderr, None
    return stderr[: told.start()], max(0.0, float(told[2]) - float(told[1]))


def is_refused(name: str, stderr: bytes) -> bool:
    """Whether `supervised` could not begin for want of a place for the input; the return code is `REFUSED` then."""
    return bool(name) and f"{name} ".encode() in stderr


def ending(name: str) -> str:
    """Ends what `supervised` started under a name and waits until it is gone; harmless when it is over."""
    return command(_ENDING, name)


def reading(paths: Sequence[str], mark: str) -> list[str]:
    """A command that tells the texts of files, for `texts_of`."""
    return ["sh", "-c", _READING, "sh", mark, *map(_absolute, paths)]


def writing(path: str, text: str) -> list[str]:
    """A command that writes a text into a file that exists."""
    return ["sh", "-c", _WRITING, "sh", _absolute(path), text]


def storing(remote: str, *, size_bytes: int, mode: int) -> str:
    """Takes a file from the connection: whole under its name, or not at all when its input ends too early."""
    part = f"{_absolute(remote)}{new_name()}"
    return command(_STORING, remote, part, str(size_bytes), f"{mode:o}")


def fetching(remote: str) -> list[str]:
    """A command that tells a file's content."""
    return ["sh", "-c", _FETCHING, "sh", _absolute(remote)]


def in_commands(paths: Sequence[str]) -> list[list[str]]:
    """Paths in as few portions as fit into one command each."""
    portions: list[list[str]] = [[]]
    room = COMMAND_BYTES_MAX
    for path in paths:
        cost = len(shlex.quote(shlex.quote(path)).encode(errors="surrogateescape")) + 1
        if cost > room and portions[-1]:
            portions.append([])
            room = COMMAND_BYTES_MAX
        portions[-1].append(path)
        room -= cost
    return portions


def texts_of(said: bytes, paths: Sequence[str], mark: str) -> dict[str, str | None] | None:
    """What `reading` told: None for what is no small text, and for what it did not come to.

    None in all when the board did not even begin.
    """
    begin = mark.encode() + b"\n"
    if not said.startswith(begin):
        return None
    parts = re.split(rb"\n" + re.escape(mark.encode()) + rb"([0-9]+)\n", said.removeprefix(begin))
    contents, codes = parts[0::2], parts[1::2]
    told = [_text(content) if int(code) == 0 else None for content, code in zip(contents, codes, strict=False)]
    return dict(zip(paths, told + [None] * (len(paths) - len(told)), strict=False))


def _text(content: bytes) -> str | None:
    """Device trees end their strings with a NUL, and divide lists by it."""
    if len(content) > TEXT_BYTES_MAX:
        return None
    try:
        text = content.decode().replace("\0", "\n").strip()
    except UnicodeDecodeError:
        return None
    return text if all(letter.isprintable() or letter in "\n\t\r" for letter in text) else None


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidRequest(f"{path!r} is no absolute path of a board")
    return path
