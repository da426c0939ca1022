"""What a first, small injection does in numpy instead of compiling, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

import skygraft
from skygraft.injection import marking
from skygraft.jit import compiled, numba_side, plain, worth_compiling
from skygraft.noise import planes
from skygraft.noise.few import add_noisy_to_few
from skygraft.noise.poisson import add_noisy
from skygraft.noise.tables import tables
from skygraft.render import prepared
from skygraft.testing import make_exposure

SHAPE = (60, 310)


def light(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A model of one regime of means, with negative lobes and what is no number."""
    model = {
        "all": lambda: 10 ** rng.uniform(-4, 5, SHAPE),
        "sparse": lambda: np.where(rng.random(SHAPE) < 0.2, 10 ** rng.uniform(-4, 5, SHAPE), 0),
        "faint": lambda: rng.uniform(0, 1, SHAPE),
        "about the limit": lambda: rng.uniform(15, 40, SHAPE),
        "bright": lambda: np.full(SHAPE, 3e5),
        "none": lambda: np.zeros(SHAPE),
    }[kind]()
    model[rng.random(SHAPE) < 0.05] *= -1
    model[3, :40] = [np.inf, np.nan, -np.inf, -0.0] * 10
    return model.astype(np.float32)


@pytest.mark.parametrize("gain", ["one", "of columns", "of pixels"])
@pytest.mark.parametrize("kind", ["all", "sparse", "faint", "about the limit", "bright", "none"])
def test_noise_is_the_same_in_numpy(kind, gain):
    rng = np.random.default_rng(3)
    model, image, variance = light(kind, rng), rng.normal(size=SHAPE).astype(np.float32), None
    image[5, 5] = np.nan
    gains = {"one": (1, 1), "of columns": (1, SHAPE[1]), "of pixels": SHAPE}[gain]
    per_unit = rng.uniform(0.5, 3, gains).astype(np.float32)
    variance = np.empty((0, 0), np.float32) if gain == "of columns" else rng.uniform(1, 2, SHAPE).astype(np.float32)
    for place in ("image", "model", "apart"):
        found = []
        for add in (add_noisy, add_noisy_to_few):
            arrays = {"image": image.copy(), "model": model.copy(), "apart": np.full(SHAPE, 7, np.float32)}
            spread, out = variance.copy(), arrays[place]
            after = np.full_like(spread, 3) if place == "apart" else spread
            apart = place != "image", place == "apart"
            planes = arrays["image"], spread, arrays["model"], arrays["model"].view(np.uint32), out, after
            add(*planes, apart, per_unit, -33, 1000, 0x243F6A88, 0xFFFFFFFF, *tables())
            found.append([plane.tobytes() for plane in (*arrays.values(), spread, after)])
        assert found[0] == found[1], place
        assert found[0][("image", "model", "apart").index(place)] != (image if place == "image" else model).tobytes()


@pytest.mark.parametrize("rows", [1, SHAPE[0]])
def test_marks_are_the_same_in_numpy(rows):
    rng = np.random.default_rng(4)
    model, before = light("sparse", rng), rng.integers(0, 9, SHAPE, dtype=np.int32)
    variance = 10 ** rng.uniform(-6, 8, (rows, SHAPE[1])).astype(np.float32)
    variance[:, ::7], variance[:, 1::7], variance[:, 2::7] = np.nan, np.inf, -1.0
    found = np.empty((2, *SHAPE), np.int32)
    for mark, mask in zip((marking._mark, marking._mark_few), found, strict=True):
        mark(before, mask, model, model.view(np.uint32), variance, np.int32(1 << 20), 0.7)
    np.testing.assert_array_equal(*found)
    marked = np.count_nonzero(found[0] >> 20)
    assert 0.02 * model.size < marked < np.count_nonzero(model)


@pytest.mark.parametrize("shape", [(1, 41, 41), (10, 33, 35), (3, 7, 5)])
def test_moments_are_the_same_in_numpy(shape, monkeypatch):
    rng = np.random.default_rng(5)
    kernels = rng.normal(size=shape) * np.exp(5 * rng.normal(size=shape))
    kernels[rng.random(shape) < 0.3] = 0.0
    kernels[0, :3] = -0.0
    monkeypatch.setattr(prepared, "worth_compiling", lambda *_, **__: False)
    assert prepared._raw_moments(kernels).tobytes() == prepared._sum_moments(kernels).tobytes()


def test_an_injection_is_the_same_whatever_is_compiled(monkeypatch):
    n = 6
    catalog = {
        "injection_id": np.arange(n),
        "ra": 150.0 + np.linspace(-0.001, 0.001, n),
        "dec": np.full(n, 2.0),
        "mag": np.linspace(16.0, 23.0, n),
        "source_type": ["Star", "Sersic"] * 3,
        "n": np.ones(n),
        "half_light_radius": np.full(n, 0.7),
        "q": np.full(n, 0.6),
        "pa": np.full(n, 30.0),
    }
    found = []
    for compiling in (True, False):
        for module in (planes, marking, prepared):
            monkeypatch.setattr(module, "worth_compiling", lambda *_, answer=compiling, **__: answer)
        made = skygraft.inject(make_exposure((96, 128)), catalog, band="r", seed=1)
        arrays = made.exposure.image, made.exposure.variance, made.exposure.mask
        found.append([plane.tobytes() for plane in arrays])
        assert made.summary["n_drawn"] == n
    assert found[0] == found[1]


def fresh():
    names = {"compiled": compiled}
    exec("@compiled\ndef twice(x):\n    return 2 * x", names)  # of no file, so it is on no disk
    return names["twice"]


def test_compiling_is_worth_it_after_so_much_work():
    twice = fresh()
    assert [worth_compiling(twice, 3, work=lambda: 40, limit=100) for _ in range(4)] == [False, False, True, True]
    assert worth_compiling(twice, 3, work=lambda: 0, limit=100)


@compiled
def thrice(x):
    return 3 * x


def test_what_is_in_the_cache_is_called(monkeypatch, tmp_path):
    made = numba_side.dispatcher(thrice.py_func, (), {})
    monkeypatch.setattr(made.compile.args[1]._cache_file, "_index_path", str(tmp_path / "there is none"))
    assert not numba_side.in_cache(made, (7,))
    assert thrice(7) == 21
    assert numba_side.in_cache(numba_side.dispatcher(thrice.py_func, (), {}), (7,))
    assert not numba_side.in_cache(numba_side.dispatcher(thrice.py_func, (), {}), (1j,))
    assert worth_compiling(thrice, 7, work=lambda: 1, limit=100)


def test_a_function_and_what_it_calls_run_in_python():
    seen = []

    def note(x):
        seen.append(x)
        return x

    names = {"compiled": compiled, "note": note}
    exec(
        "@compiled\ndef inner(x):\n    return note(x) + 1\n"
        "@compiled\ndef outer(x):\n    return inner(x) if x <= 0 else outer(x - 1)\n",
        names,
    )
    assert plain(names["outer"])(2) == 1
    assert seen == [0]
