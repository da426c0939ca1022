"""A pair of campaigns, run, recovered and compared: the response of fluxes is the flux, with hardly any noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kits.catalogs_kit import write_star_campaign
from skygraft.campaign.paired import PairedCampaign
from skygraft.errors import CatalogError
from skygraft.recovery.recover import recover
from skygraft.recovery.response import response


@pytest.mark.slow
def test_fluxes_respond_to_magnification(tmp_path: Path) -> None:
    campaign = write_star_campaign(tmp_path, 100)
    pair = PairedCampaign.of(campaign, "magnification=±0.02")
    assert all(summary.ok for summary in pair.run(n_workers=0))
    with pytest.raises(CatalogError, match="no recovery table"):
        response(pair)
    for side in (pair.plus, pair.minus):
        assert recover(side, n_workers=0).ok
    found = response(tmp_path / "out", "flux_ap_6", by={"mag": [17.5, 18.5, 19.5, 20.5]}, bootstrap=50)
    assert found.attrs["parameter"] == "magnification" and found.attrs["step"] == pytest.approx(0.04)
    relative = found.response / found["mean"]
    relative_error = found.error / found["mean"]
    # Stars gain flux only; galaxies lose a little from the aperture, because they grow.
    assert np.all(np.abs(relative - 1.0) < 5 * relative_error + 0.1)
    assert np.all(found.error < found.unpaired_error / 5)
    stars = response(pair, "flux_ap_6", by=["source_type"], bootstrap=50).sel(source_type="Star")
    assert float(stars.response / stars["mean"]) == pytest.approx(1.0, abs=0.03)
    counts = response(pair, by={"mag": [17.5, 19.5, 22.5]}, bootstrap=50)
    assert float(counts.response[0]) == 0.0 and float(counts.response[1]) >= 0.0
