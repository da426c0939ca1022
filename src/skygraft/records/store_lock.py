"""The lock of a campaign whose outputs lie in a store: an object that its owner renews.

Stores have no locks, and a lock of this machine keeps no driver of another one away. The object is created only if
there is none; where the store cannot do that in one step, it is read again after a while. It is void when its owner is
dead: at once on the same machine, after three minutes without renewal on others.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator

from skygraft.errors import CampaignError, PlaceError, PlaceNotFoundError
from skygraft.places import Store
from skygraft.records.lock import DEAD_SECONDS, Owner

__all__ = ["store_is_locked", "store_locked"]

_BEAT_SECONDS = 30.0
_NAME = ".lock"
_held: set[str] = set()
"""What the locks say that this process holds. Those that it could not remove, because credentials had expired or the
connection was lost, are not among them."""


def _read(store: Store, url: str) -> str:
    try:
        return store.read(f"{url}/{_NAME}").decode(errors="replace")
    except PlaceNotFoundError:
        return ""


def _age(store: Store, url: str) -> float:
    """Seconds since the lock was renewed, by the store's clock; 0 where that is not known."""
    probe = f"{url}/{_NAME}.now.{secrets.token_hex(6)}.tmp"
    renewed = store.find(f"{url}/{_NAME}")
    now = store.write(probe, b"now")
    store.remove(probe)
    return 0.0 if renewed is None else max(0.0, (now.mtime_ns - renewed.mtime_ns) / 1e9)


def store_is_locked(store: Store, url: str) -> bool:
    """True if there is a lock whose owner may be alive.

    Raises
    ------
    PlaceError
        If the store cannot be read.
    """
    text = _read(store, url)
    return bool(text) and _holds(store, url, text)


def _holds(store: Store, url: str, text: str) -> bool:
    owner, me = Owner.parse(text), Owner.me()
    if owner == me:
        return text in _held
    alive = owner.is_alive()
    return alive if alive is not None else _age(store, url) < DEAD_SECONDS


@contextlib.contextmanager
def store_locked(store: Store, url: str) -> Iterator[None]:
    """Hold the lock of a campaign in a store.

    Parameters
    ----------
    store : Store
        The store.
    url : str
        The campaign's folder in it.

    Raises
    ------
    CampaignError
        If another driver holds it.
    PlaceError
        If it cannot be written.
    """
    mine, over = Owner.me().text(), threading.Event()
    for last in (False, True):
        try:
            store.write(f"{url}/{_NAME}", mine.encode(), create=True)
        except FileExistsError:
            text = _read(store, url)
            if text == mine:
                break  # whose answer was lost, so that it was asked for again
            if text and (last or _holds(store, url, text)):
                age = _age(store, url)
                raise CampaignError(
                    f"another process runs this campaign ({text.partition(' since ')[0]}; its lock was renewed "
                    f"{age:.0f} s ago)",
                    path=url,
                    fix=f"Wait for it to end, or stop it. On another machine its lock, {url}/{_NAME}, is void "
                    f"{DEAD_SECONDS:.0f} s after it was last renewed",
                ) from None
            store.remove(f"{url}/{_NAME}")
            continue
        break
    if _read(store, url) != mine:
        raise CampaignError("another process has begun to run this campaign", path=url, fix="Wait for it to end")

    def beat() -> None:
        while not over.wait(_BEAT_SECONDS):
            with contextlib.suppress(PlaceError):
                if _read(store, url) == mine:
                    store.write(f"{url}/{_NAME}", mine.encode())

    _held.add(mine)
    thread = threading.Thread(target=beat, daemon=True, name="holds the campaign in the store")
    thread.start()
    try:
        yield
    finally:
        _held.discard(mine)
        over.set()
        thread.join(timeout=_BEAT_SECONDS)
        with contextlib.suppress(PlaceError):
            if _read(store, url) == mine:
                store.remove(f"{url}/{_NAME}")
