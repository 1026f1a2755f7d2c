"""What the system refuses a server: tests/support/file_faults.cc, one rule at a time."""

import contextlib
import os
import pathlib

from serving import BINARY, wait_until

LIBRARY = pathlib.Path(os.environ.get("SCONCE_BUILD_DIR", BINARY.parent)) / (
    "tests/support/libfile_faults.so")


class FileFaults:
    """The rules for the servers that are started with `environment`."""

    def __init__(self, folder):
        assert LIBRARY.exists(), f"{LIBRARY} is not built"
        self._path = pathlib.Path(folder) / "file_faults"
        self._rules = {}
        self._next_id = 0
        self.environment = {"LD_PRELOAD": str(LIBRARY), "SCONCE_FILE_FAULTS": str(self._path)}
        self._write()

    @contextlib.contextmanager
    def rule(self, calls, pattern, action, argument=0, skip=0, count=-1):
        """From now until the end of the block; yields how often it was met."""
        number = self._next_id
        self._next_id += 1
        self._rules[number] = f"{number} {calls} {pattern} {action} {argument} {skip} {count}\n"
        self._write()
        try:
            yield Hits(self._path.with_name(self._path.name + ".hits"), number)
        finally:
            del self._rules[number]
            self._write()

    def _write(self):
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text("".join(self._rules.values()))
        os.replace(beside, self._path)


class Hits:
    """The calls that met one rule: lines "CALL PATH"."""

    def __init__(self, path, number):
        self._path, self._number = path, number

    def __call__(self):
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ", 1)[1] for line in lines if line.split(" ", 1)[0] == str(self._number)]

    def wait(self, count=1):
        wait_until(lambda: len(self()) >= count, f"{count} calls that meet a rule; met: {self()}")
