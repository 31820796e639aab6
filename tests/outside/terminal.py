"""A terminal for programs that draw a screen: runs one on a pseudo terminal and keeps what stands on it as text."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

import outside

_SEQUENCE = re.compile(r"\x1b\[([?>]?)([0-9;]*)([A-Za-z@`])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Za-z0-9]|\x1b[=>78DEHMc]")


# The letters that stand for lines and signs while the drawing set is on.
_DRAWING = str.maketrans("lqkxmjtuvwnfag", "┌─┐│└┘├┤┴┬┼°▒±")


class Screen:
    """Rows of characters. Understands what curses sends to an xterm; colours are dropped."""

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.cells = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.last = " "
        self.drawing = False
        self.rest = ""

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.cells).rstrip() + "\n"

    def feed(self, data):
        data = self.rest + data
        self.rest = ""
        at = 0
        while at < len(data):
            if data[at] == "\x1b":
                match = _SEQUENCE.match(data, at)
                if not match:
                    if len(data) - at < 64:  # the rest of it is still to come
                        self.rest = data[at:]
                        return
                    at += 1
                    continue
                if match.group(3) and not match.group(1):
                    self._control(match.group(3), [int(n) if n else 0 for n in match.group(2).split(";")])
                elif match.group(0).startswith("\x1b("):
                    self.drawing = match.group(0)[2] == "0"
                at = match.end()
                continue
            self._put(data[at].translate(_DRAWING) if self.drawing else data[at])
            at += 1

    def _put(self, char):
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row = min(self.row + 1, self.rows - 1)
        elif char == "\b":
            self.column = max(self.column - 1, 0)
        elif char == "\t":
            self.column = min((self.column // 8 + 1) * 8, self.columns - 1)
        elif char >= " ":
            self.cells[self.row][min(self.column, self.columns - 1)] = char
            self.column += 1
            self.last = char

    def _control(self, letter, numbers):
        first = numbers[0]
        count = max(first, 1)
        row = self.cells[self.row]
        if letter in "Hf":
            self.row = min(count, self.rows) - 1
            self.column = min(max(numbers[1], 1) if len(numbers) > 1 else 1, self.columns) - 1
        elif letter == "A":
            self.row = max(self.row - count, 0)
        elif letter == "B":
            self.row = min(self.row + count, self.rows - 1)
        elif letter == "C":
            self.column = min(self.column + count, self.columns - 1)
        elif letter == "D":
            self.column = max(self.column - count, 0)
        elif letter in "G`":
            self.column = min(count, self.columns) - 1
        elif letter == "d":
            self.row = min(count, self.rows) - 1
        elif letter == "X":
            self._blank(row, self.column, self.column + count)
        elif letter == "K":
            self._blank(row, 0 if first else self.column, self.columns if first != 1 else self.column + 1)
        elif letter == "J":
            self._blank(row, 0 if first else self.column, self.columns if first != 1 else self.column + 1)
            for other in self.cells[self.row + 1:] if first == 0 else self.cells if first in (2, 3) else self.cells[:self.row]:
                self._blank(other, 0, self.columns)
        elif letter == "P":
            del row[self.column:self.column + count]
            row.extend(" " * (self.columns - len(row)))
        elif letter == "@":
            row[self.column:self.column] = " " * count
            del row[self.columns:]
        elif letter == "b":
            for _ in range(count):
                self._put(self.last)

    def _blank(self, row, begin, end):
        for column in range(max(begin, 0), min(end, self.columns)):
            row[column] = " "


def watch(argv, environment, done, rows=60, columns=200):
    """Runs argv until done(screen text) or patience ends, then kills it; answers the last screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, dict(environment, TERM="xterm", LANG="C.UTF-8", LINES=str(rows), COLUMNS=str(columns)))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.kill(pid, signal.SIGWINCH)
    screen = Screen(rows, columns)
    until = time.monotonic() + outside.PATIENCE_SECONDS
    pending = b""
    while not done(screen.text()) and time.monotonic() < until:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            pending += os.read(terminal, 65536)
        except OSError:
            break
        # A character may come in two pieces.
        cut = len(pending)
        while cut > 0 and cut > len(pending) - 4 and pending[cut - 1] & 0xc0 == 0x80:
            cut -= 1
        if cut > 0 and pending[cut - 1] & 0xc0 == 0xc0:
            cut -= 1
        else:
            cut = len(pending)
        screen.feed(pending[:cut].decode(errors="replace"))
        pending = pending[cut:]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return screen.text()
