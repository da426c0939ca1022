"""The picture of closure is drawn without a display, and shows what it says."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from astropy.table import QTable

from skygraft.errors import InjectionError
from skygraft.qa.plots import closure_figure
from skygraft.views import save_figure


@pytest.fixture
def closure() -> QTable:
    rng = np.random.default_rng(1)
    n = 60
    return QTable(
        {
            "band": np.repeat(["r", "g"], n // 2),
            "mag_in": rng.uniform(18, 22, n),
            "residual": 0.01 * rng.standard_normal(n),
            "sigma": np.full(n, 0.01),
            "psf_sum_residual": np.full(n, 0.03),
        }
    )


def test_the_picture_is_written(closure, tmp_path) -> None:
    path = save_figure(closure_figure(closure), tmp_path / "closure.png", dpi=50)
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] > 300 and pixels[..., :3].std() > 0.05


def test_bands_are_in_order_and_share_the_axis(closure) -> None:
    axes = closure_figure(closure).axes
    assert [axis.get_title(loc="left")[0] for axis in axes] == ["g", "r"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    low, high = axes[0].get_ylim()
    assert low < -0.03 and high > 0.03


def test_no_stars_no_closure_picture(closure) -> None:
    with pytest.raises(InjectionError, match="no injected star"):
        closure_figure(closure[:0])
