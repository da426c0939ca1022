"""Cases by number: how the sound files are made, and how one case is run."""

from __future__ import annotations

import json
import os
import shutil
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fuzz.judge import damage, judge
from fuzz.mutate import Change, Mutator
from fuzz.watch import DAMAGE, Outcome


class Fuzz:
    """Cases by number: each damages one file and does with it what a user would.

    Parameters
    ----------
    folder : Path
        Where the sound files are, or will be.
    seed : int
        Of the whole run.
    targets : mapping
        Modules by name, each with ``make(folder)``, which writes sound files and returns their names, ``WEIGHTS`` of
        those that are drawn less often, and ``attempt(fuzz, name, case, rng, what)``, which damages and uses one.
    few : bool
        Make those sound files only that a target lists in ``FEW``, for a short run.
    """

    def __init__(self, folder: Path, seed: int, targets: dict[str, ModuleType], *, few: bool = False) -> None:
        self.folder, self.seed, self.targets, self.few = folder.resolve(), seed, targets, few
        self._known: dict[str, Any] = {}
        self._prepared: set[tuple[str, str]] = set()
        self.harmless = False
        self.name, self.number = "", 0

    def make_seeds(self, targets: list[str]) -> None:
        """Write the sound files, in a process of its own: threads that it starts must not be forked."""
        if all((self.folder / target / "names.json").is_file() for target in targets):
            return
        pid = os.fork()
        if pid:
            if os.waitpid(pid, 0)[1] != 0:
                raise RuntimeError(f"the sound files cannot be made in {self.folder}")
            return
        try:
            for target in targets:
                self._make(target)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _make(self, target: str) -> None:
        """Write the sound files of a target, if they are not there."""
        folder = self.folder / target
        if (folder / "names.json").is_file():
            return
        shutil.rmtree(folder, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make = self.targets[target].make
            some = getattr(self.targets[target], "FEW", None) if self.few else None
            names = make(folder) if some is None else make(folder, some)
        (folder / "names.json").write_text(json.dumps(names))

    def run(self, target: str, number: int) -> Outcome:
        """One case, in the folder ``case`` of the current one."""
        name, rng = self._drawn(target, number)
        return self._attempt(target, number, name, rng)

    def _drawn(self, target: str, number: int) -> tuple[str, np.random.Generator]:
        """The sound file of a case, and what its damage is drawn from."""
        rng = np.random.default_rng([self.seed, zlib.crc32(target.encode()), number])
        names = self._names(target)
        weights = np.array([self.targets[target].WEIGHTS.get(name, 1.0) for name in names])
        return str(rng.choice(names, p=weights / weights.sum())), rng

    def _names(self, target: str) -> list[str]:
        return self.known(f"names of {target}", lambda: json.loads((self.folder / target / "names.json").read_text()))

    def _attempt(self, target: str, number: int, name: str, rng: np.random.Generator) -> Outcome:
        self.name, self.number, case = name, number, Path("case").resolve()
        shutil.rmtree(case, ignore_errors=True)
        what: list[str] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.targets[target].attempt(self, name, case, rng, what)
        except Exception as error:
            kind, detail = judge(error)
            return Outcome(target, number, kind, name, "; ".join(what), detail)
        return Outcome(target, number, "ok", name, "; ".join(what))

    def prepare(self, target: str, number: int) -> None:
        """Use the sound file of a case as it is, once: what it loads and keeps is no case's time or memory.

        A process that is alone makes the sound files here: what it imports for them it has for the cases.

        Raises
        ------
        AssertionError
            If the sound file is at fault or refused: the oracle or the file is wrong then.
        """
        self._make(target)
        name, _ = self._drawn(target, number)
        if (target, name) in self._prepared:
            return
        self.harmless = True
        try:
            outcome = self._attempt(target, number, name, np.random.default_rng(number))
        finally:
            self.harmless = False
        # A command may end with a code for what an image lacks; it then says so.
        asked = outcome.kind == "refused" and outcome.what
        assert outcome.kind == "ok" or asked, f"sound, but {outcome}"
        self._prepared.add((target, name))

    def damage(self, path: Path, rng: np.random.Generator, what: list[str], *more: Mutator) -> Change:
        """Damage a file of a case, as `fuzz.judge.damage` does; what was done is appended to `what`."""
        if self.harmless:
            return Change(path.read_bytes(), "nothing")
        change = damage(path, rng, what, *more)
        self.say(what)
        return change

    def say(self, what: list[str]) -> None:
        """Note what was done to the sound file of the case."""
        # Of a process that dies or hangs nothing else remains.
        print(f"{DAMAGE}{self.name}: {'; '.join(what)}", flush=True)

    def known[T](self, key: str, make: Callable[[], T]) -> T:
        """What the sound file says, found once."""
        if key not in self._known:
            self._known[key] = make()
        value: T = self._known[key]
        return value


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder of small files, with their times, which a campaign looks at."""
    shutil.copytree(source, target, copy_function=shutil.copy2)
