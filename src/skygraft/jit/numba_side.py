"""What needs numba: compiling the functions of `skygraft.jit`, the cache on disk, and operations that numba lacks."""

from __future__ import annotations

import contextlib
import copy
import errno
import fcntl
import functools
import gc
import hashlib
import logging
import sys
import time
import types as python_types
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, event, inline_closurecall, sigutils
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic, register_jitable

__all__ = [
    "dispatcher",
    "fma",
    "in_cache",
    "leading_zeros",
    "load_little_word",
    "load_word",
    "prefetch",
    "register",
    "scratch",
    "store_little_word",
    "store_word",
]

_LOCK_NAME = "skygraft-compiling.lock"
_LONGEST_WAIT_SECONDS = 300.0
"""After this long a process compiles for itself, whatever the other one is doing."""
_POLL_SECONDS = 0.05
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


def dispatcher(function: Any, reads: tuple[str, ...], options: dict[str, Any]) -> Any:
    """Return numba's form of a function, for `skygraft.jit.compiled`.

    Parameters
    ----------
    function : callable
        The function; what it calls has numba's form already.
    reads, options
        See `skygraft.jit.compiled`.
    """
    # Nothing calls these functions from C, so numba need not compile an entry point for that.
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True, **options}
    made = numba.njit(**options)(function)
    cache = None
    with contextlib.suppress(RuntimeError):  # no folder for it is writable
        cache = made._cache = _Cache(function, options)
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    read_only = frozenset(i for i, name in enumerate(names) if name in reads)
    made.compile = functools.partial(_compile_once, made, cache, read_only)
    return made


def in_cache(made: Any, arguments: tuple[Any, ...]) -> bool:
    """Say whether the code of a dispatcher for some arguments is in the cache on disk."""
    _, cache, read_only = made.compile.args
    given = tuple(made.typeof_pyval(value) for value in arguments)
    return cache is not None and cache.holds(_plain_kinds(given, read_only), made.targetctx)


def _compile_once(made: Any, cache: _Cache | None, read_only: frozenset[int], signature: Any) -> Any:
    """Take the place of `Dispatcher.compile`: one specialisation for types that differ in nothing that matters."""
    given, _ = sigutils.normalize_signature(signature)
    known = made.overloads.get(given)
    if known is not None:
        return known.entry_point
    wanted = _plain_kinds(given, read_only)
    lock = contextlib.nullcontext() if cache is None else cache.lock.while_compiling()
    with global_compiler_lock, _scopes_copied_once(), lock:
        entry = type(made).compile(made, wanted)
    if wanted != given:
        # So that later calls with these types find it without asking here.
        made._insert([kind._code for kind in given], entry, False)
    return entry


class _Copier:
    """Stands for the module `copy` where numba copies the blocks of a function in order to inline it.

    Numba copies block by block, and with each block the function's scope with all of its variables, which took a fifth
    of all compilation. Blocks that are copied one after the other are given one copy of their scope here.
    """

    def __init__(self) -> None:
        self._scope: Any = None
        self._memo: dict[int, Any] = {}
        self._copied: set[int] = set()

    def deepcopy(self, block: Any) -> Any:
        """Copy a block."""
        scope = getattr(block, "scope", None)
        if scope is None:
            return copy.deepcopy(block)
        if scope is not self._scope or id(block) in self._copied:
            self._scope, self._memo, self._copied = scope, {}, set()
        self._copied.add(id(block))
        return copy.deepcopy(block, self._memo)

    def __getattr__(self, name: str) -> Any:
        return getattr(copy, name)


@contextlib.contextmanager
def _scopes_copied_once() -> Iterator[None]:
    module: Any = inline_closurecall
    if getattr(module, "copy", None) is not copy:  # another numba, or a compilation within one
        yield
        return
    module.copy = _Copier()
    try:
        yield
    finally:
        module.copy = copy


def _plain_kinds(given: tuple[Any, ...], read_only: frozenset[int]) -> tuple[Any, ...]:
    return tuple(_plain(kind, i in read_only) for i, kind in enumerate(given))


def _plain(kind: Any, read_only: bool) -> Any:
    kind = types.unliteral(kind)
    if read_only and isinstance(kind, types.Array):
        kind = kind.copy(readonly=True)
    return kind


def register(function: Any) -> None:
    """Let compiled functions call an ordinary one, for `skygraft.jit.in_python_too`."""
    register_jitable(error_model="numpy")(function)


class _Lock:
    """Lets one process at a time compile what is missing in a cache folder.

    It is taken only when something is missing, and given back by the kernel if its holder dies.

    Parameters
    ----------
    folder : Path
        The cache folder, in which the lock file is created.
    """

    depth = 0
    """Compilations in progress in this process, each started by the one before; numba's lock admits one thread."""
    holder: IO[bytes] | None = None
    """The lock file that this process has locked. What a compilation starts takes no second one: no deadlock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK_NAME

    @contextlib.contextmanager
    def while_compiling(self) -> Iterator[None]:
        """Give the lock back, if it was taken, at the end of the outermost compilation."""
        _Lock.depth += 1
        try:
            yield
        finally:
            _Lock.depth -= 1
            if _Lock.depth == 0 and _Lock.holder is not None:
                fcntl.flock(_Lock.holder, fcntl.LOCK_UN)
                _Lock.holder.close()
                _Lock.holder = None

    def take(self) -> bool:
        """Wait for the lock; True if it was taken now, False if this process has one or there are no locks."""
        if _Lock.holder is not None or _Lock.depth == 0:
            return False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("ab")
        except OSError:
            return False
        end = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD or time.monotonic() > end:
                    file.close()
                    return False
                time.sleep(_POLL_SECONDS)
            else:
                _Lock.holder = file
                return True


class _Cache(FunctionCache):
    """Numba's cache of one function, valid as long as all code that is compiled into the function stays the same.

    Numba itself checks the function's own file only, although code from other files is compiled into the function.

    Parameters
    ----------
    function : callable
    options : dict
        What it is compiled with.
    """

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        super().__init__(function)
        self._options = repr(sorted(options.items()))
        self._stamped = False
        self.lock = _Lock(Path(self.cache_path))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load one specialisation, waiting for another process that may be compiling it; None if there is none."""
        self._stamp()
        found = super().load_overload(sig, target_context)
        if found is None and self.lock.take():
            found = super().load_overload(sig, target_context)
        return found

    def holds(self, sig: Any, target_context: Any) -> bool:
        """Say whether there is a specialisation, without loading it."""
        self._stamp()
        target_context.refresh()
        with contextlib.suppress(OSError):
            return self._index_key(sig, target_context.codegen()) in self._cache_file._load_index()
        return False

    def _stamp(self) -> None:
        if not self._stamped:
            # Not before: functions further down in a file are defined later than those that call them.
            self._cache_file._source_stamp = _fingerprint(self._py_func, self._options)
            self._stamped = True


def _fingerprint(function: Any, options: str) -> str:
    """Hash of everything that is compiled into a function: its code, that of what it calls, and their constants."""
    digest = hashlib.blake2b(f"{llvmlite.__version__} {options}".encode(), digest_size=16)
    seen: set[int] = set()

    def add_code(code: python_types.CodeType, names: dict[str, Any], docstring: str | None = None) -> None:
        digest.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, python_types.CodeType):
                add_code(constant, names)
            elif constant is not docstring:
                add(constant)
        for name in code.co_names:
            digest.update(name.encode())
            if name in names:
                add(names[name])

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
            return
        if isinstance(value, tuple | frozenset):
            digest.update(f"{type(value).__name__} {len(value)}".encode())
            for item in value:
                add(item)
            return
        if isinstance(value, Dispatcher):
            digest.update(repr(sorted(value.targetoptions.items())).encode())
            value = value.py_func
        if hasattr(value, "_defn"):  # an intrinsic: any code of its file may take part in what it generates
            value = value._defn
            digest.update(_content(value.__code__.co_filename))
        if isinstance(value, python_types.FunctionType):
            if id(value) not in seen:
                seen.add(id(value))
                add_code(value.__code__, value.__globals__, value.__doc__)
                for cell in value.__closure__ or ():
                    add(cell.cell_contents)
            return
        if isinstance(value, _CONSTANTS):
            digest.update(repr(value).encode())
        else:  # libraries, types and their functions, whose text may hold an address
            digest.update(f"{getattr(value, '__module__', '')} {getattr(value, '__name__', type(value))}".encode())

    add(function)
    return digest.hexdigest()


_CONSTANTS = (int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype, types.Type)


@functools.cache
def _content(path: str) -> bytes:
    return Path(path).read_bytes()


class _Notice(event.Listener):
    """Reports once in a process that loops are being compiled, if that takes long, and makes it faster."""

    def __init__(self) -> None:
        self.spent, self._depth, self._began, self._reported, self._collects = 0.0, 0, 0.0, False, False

    def on_start(self, compilation: Any) -> None:
        """Note the time when a function that is not in the cache begins to be compiled."""
        del compilation
        self._depth += 1
        if self._depth > 1:
            return
        self._began = time.monotonic()
        # A tenth of the time would go to looking for garbage among millions of objects that live until the end.
        self._collects = gc.isenabled()
        gc.disable()
        if self.spent > _PATIENCE_SECONDS and not self._reported:
            self._reported = True
            logging.getLogger("skygraft").warning(
                "skygraft compiles its loops for this machine: up to a minute, once after it was installed or changed"
            )

    def on_end(self, compilation: Any) -> None:
        """Add the time that the outermost compilation took."""
        del compilation
        self._depth -= 1
        if self._depth == 0:
            self.spent += time.monotonic() - self._began
            if self._collects:
                gc.enable()


_PATIENCE_SECONDS = 4.0
_notice = _Notice()
event.register("numba:compile", _notice)


def _prefetch(_: Any, array: Any, row: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        made = context.make_array(kind)(context, builder, arguments[0])
        item = cgutils.get_item_pointer(context, builder, kind, made, arguments[1:])
        byte, number = cgutils.voidptr_t, cgutils.int32_t
        kind_of_call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind_of_call)
        to_write, to_all_caches, data = number(1), number(3), number(1)
        builder.call(ask, [builder.bitcast(item, byte), to_write, to_all_caches, data])
        return context.get_dummy_value()

    return types.void(array, row, column), generate


prefetch = cast(Any, intrinsic(_prefetch))


def _leading_zeros(_: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


leading_zeros = cast(Any, intrinsic(_leading_zeros))


def _word_at(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Address of eight bytes in an array of bytes."""
    made = context.make_array(kind)(context, builder, array)
    item = cgutils.get_item_pointer(context, builder, kind, made, [place])
    return builder.bitcast(item, ir.IntType(64).as_pointer())


def _big_endian(builder: Any, word: Any) -> Any:
    return builder.bswap(word) if sys.byteorder == "little" else word


def _load_word(_: Any, data: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = _word_at(context, builder, signature.args[0], *arguments)
        return _big_endian(builder, builder.load(where, align=1))

    return types.uint64(data, place), generate


load_word = cast(Any, intrinsic(_load_word))


def _load_little_word(_: Any, data: Any, place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = builder.load(_word_at(context, builder, signature.args[0], *arguments), align=1)
        return word if sys.byteorder == "little" else builder.bswap(word)

    return types.uint64(data, place), generate


load_little_word = cast(Any, intrinsic(_load_little_word))


def _store_word(_: Any, data: Any, place: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = _word_at(context, builder, signature.args[0], *arguments[:2])
        builder.store(_big_endian(builder, arguments[2]), where, align=1)
        return context.get_dummy_value()

    return types.void(data, place, types.uint64), generate


store_word = cast(Any, intrinsic(_store_word))


def _store_little_word(_: Any, data: Any, place: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        where = _word_at(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2] if sys.byteorder == "little" else builder.bswap(arguments[2]), where, align=1)
        return context.get_dummy_value()

    return types.void(data, place, types.uint64), generate


store_little_word = cast(Any, intrinsic(_store_little_word))


def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.fma(*arguments)

    return a(a, b, c), generate


fma = cast(Any, intrinsic(_fma))


def _scratch(_: Any, size: Any, kind: Any) -> Any:
    made = types.Array(kind.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature, arguments
        item = context.get_data_type(kind.dtype)
        with builder.goto_entry_block():
            place = builder.alloca(ir.ArrayType(item, size.literal_value))
            place.align = 64
        array = context.make_array(made)(context, builder)
        n_bytes = context.get_constant(types.intp, context.get_abi_sizeof(item))
        shape = [context.get_constant(types.intp, size.literal_value)]
        data = builder.bitcast(place, item.as_pointer())
        context.populate_array(array, data=data, shape=shape, strides=[n_bytes], itemsize=n_bytes, meminfo=None)
        return array._getvalue()

    return made(size, kind), generate


scratch = cast(Any, intrinsic(prefer_literal=True)(_scratch))
