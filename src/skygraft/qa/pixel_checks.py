"""Checks of all pixels of an image, from the sums of `skygraft.qa.pixel_sums`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skygraft.campaign.pairs import ImagePair
from skygraft.conventions import LSST
from skygraft.exposure import Exposure
from skygraft.injection import InjectionOptions
from skygraft.qa.pixel_sums import BLOCK, MASK_SUMS, VARIANCE_SUMS, mask_sums, total, variance_sums
from skygraft.qa.redraw import NoiseLaw, Redrawn
from skygraft.qa.verdicts import SURE, Row, Verdict, judge
from skygraft.wording import number

__all__ = ["check_flux", "check_mask", "check_residual", "check_untouched", "check_variance"]

type Sums = Mapping[str, NDArray[np.float64]]

FLUX_TOLERANCE, FLUX_RESOLUTION = 1e-4, 5e-3
"""Relative flux up to which a deviation passes, and which must be seen."""
SIGNIFICANCE = 7.5
"""Standard deviations of a normal number that a block's residual may reach: once in 10^13 blocks, so never."""
_LEAST_COUNTS = 50.0
"""Expected counts of a block whose sum of squares is tested."""
_VARIANCE_TOLERANCE = 0.02
_SEEN = 1e-3
"""Part of a block's variance that the sources must have added for it to be judged alone."""


def check_flux(sums: Sums, law: NoiseLaw) -> Row:
    """Compare the flux of stars, and of all other sources, in all pixels with what was to be drawn.

    The scale of either is fitted to the difference by least squares, with the photon noise as weight: optimal, and
    independent of isolation.
    """
    names = ("stars_stars", "stars_others", "others_others", "stars_flux", "others_flux", "slack", "rounding")
    ss, so, oo, s, o, slack, rounding = (float(sums[name].sum()) for name in names)
    matrix, right = np.array([[ss, so], [so, oo]]), np.array([s, o])
    kinds = [i for i in range(2) if matrix[i, i] > 0]
    if not kinds:
        return Row("flux", "not applicable", note="no light of a source reaches the image")
    if len(kinds) == 2 and so * so > 0.999 * ss * oo:
        kinds = [int(np.argmax([ss, oo]))]  # all of one kind's light lies under the other's
    inverse = np.linalg.inv(matrix[np.ix_(kinds, kinds)])
    scale = inverse @ right[kinds]
    if law.is_noisy:
        error = np.sqrt(np.diag(inverse) * law.sum_factor)
        bias = np.zeros(len(kinds))
    else:
        # Weights are one over the light: rounding errors count, each at most that of its pixel.
        error = np.sqrt(np.diag(inverse) ** 2 * rounding)
        bias = slack * np.diag(inverse)
    off = scale - 1
    words = [("stars", "other sources")[k] for k in kinds]
    judged = [judge(x, e, FLUX_TOLERANCE + bad, FLUX_RESOLUTION) for x, e, bad in zip(off, error, bias, strict=True)]
    # What is measured well decides; of few photons, whose numbers are not normal, blocks are tested in `residual`.
    ranks = {"fails": 2, "passes": 1, "too few stars": 0}
    seen: list[tuple[Verdict, float]] = [
        (v if FLUX_TOLERANCE + SURE * e <= FLUX_RESOLUTION else "too few stars", limit)
        for (v, limit), e in zip(judged, error, strict=True)
    ]
    worst = max(range(len(kinds)), key=lambda i: (ranks[seen[i][0]], abs(off[i]) / seen[i][1]))
    note = ", ".join(f"{w}: {1e2 * x:+.3f} ± {1e2 * e:.3f} %" for w, x, e in zip(words, off, error, strict=True))
    n = int(sums["touched"].sum())
    return Row("flux", seen[worst][0], float(off[worst]), seen[worst][1], float(error[worst]), n, note)


def check_residual(sums: Sums, law: NoiseLaw, xy0: tuple[int, int]) -> Row:
    """Test in each block whether what is left without the sources is their photon noise, by sum and sum of squares."""
    wrong, lost = sums["wrong"], sums["lost"]
    size = _of_sums(sums, law)
    size = np.maximum(size, _of_squares(sums, law))
    # Pixels without noise are off, or are not: none may be.
    size = np.where((wrong > 0) | (lost > 0), np.inf, size)
    n = int(np.count_nonzero(sums["touched"] > 0))
    if not n:
        return Row("residual", "not applicable", note="no light of a source reaches the image")
    bad = size > SIGNIFICANCE
    row, column = np.unravel_index(int(np.argmax(size)), size.shape)
    worst = min(float(size[row, column]), 99.0)
    note = ""
    if bad.any():
        x, y = xy0[0] + BLOCK * int(column), xy0[1] + BLOCK * int(row)
        excess = float(sums["touched_flux"][row, column] - sums["touched_light"][row, column])
        note = f"{number(int(bad.sum()), 'block')} of {n:,} off, the worst at x {x} to {x + BLOCK - 1}, y {y} to "
        note += f"{y + BLOCK - 1} by a flux of {excess:+.4g}"
        if wrong.any():
            note += f"; {number(int(wrong.sum()), 'pixel')} without noise differ"
        if lost.any():
            note += f"; {number(int(lost.sum()), 'pixel')} became NaN, or no longer are"
    return Row.of("residual", not bad.any(), worst, SIGNIFICANCE, n=n, note=note)


def _of_sums(sums: Sums, law: NoiseLaw) -> NDArray[np.float64]:
    """Significance of each block's flux, in standard deviations of a normal number."""
    from scipy.special import gammainc, gammaincc, ndtri

    flux, light, variance = sums["flux"], sums["light"], sums["variance"]
    allowed = sums["slack"] + 6 * np.sqrt(sums["rounding"])
    off = np.sign(flux - light) * np.maximum(np.abs(flux - light) - allowed, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if law.correlation is not None or law.of_noisy:
            size = np.abs(off) / np.sqrt(variance * law.sum_factor)
        else:
            quantum = variance / light
            mean, count = light / quantum, np.maximum((light + off) / quantum, 0.0)
            above = gammainc(np.maximum(count, 1e-9), mean)  # probability of at least so many
            below = gammaincc(count + 1, mean)  # of at most so many
            tail = np.where(off > 0, above, below)
            size = np.where(off == 0, 0.0, -ndtri(np.clip(tail, 1e-300, 0.5)))
            # Beyond what probabilities can hold.
            size = np.where(tail < 1e-290, np.maximum(37.0, np.abs(off) / np.sqrt(variance)), size)
    return np.where((sums["noisy"] > 0) & (variance > 0), np.nan_to_num(size), 0.0)


def _of_squares(sums: Sums, law: NoiseLaw) -> NDArray[np.float64]:
    """Significance of each block's sum of squares; it follows a gamma distribution of the same mean and variance."""
    from scipy.special import gammaincc, ndtri

    mean, found, spread = sums["variance"], sums["squares"], sums["squares_variance"]
    if law.correlation is not None:
        spread = spread * law.square_factor
    with np.errstate(invalid="ignore", divide="ignore"):
        shape, scale = mean**2 / spread, spread / mean
        tail = gammaincc(shape, np.maximum(found, 0.0) / scale)
        size = -ndtri(np.clip(tail, 1e-300, 0.5))
        enough = (sums["light"] ** 2 / mean > _LEAST_COUNTS) & ((found - mean) > 10 * np.sqrt(spread))
    return np.where(enough & (sums["noisy"] > 0), np.nan_to_num(size), 0.0)


def check_untouched(image: int, variance: int, mask: int) -> Row:
    """Whether pixels that no light reaches are bit-identical, and the mask's other planes in all pixels."""
    counts = {"image": image, "variance": variance, "mask": mask}
    wrong = [f"{number(count, 'pixel')} of the {plane} plane changed" for plane, count in counts.items() if count]
    return Row.of("untouched", not wrong, sum(counts.values()), 0.0, note="; ".join(wrong))


def check_variance(pair: ImagePair, redrawn: Redrawn, law: NoiseLaw) -> tuple[Row, int]:
    """Whether the variance plane gained flux / gain; and how many pixels of it changed that no light reaches."""
    before, after = pair.before.variance, pair.after.variance
    if before is None and after is None:
        return Row("variance", "not applicable", note="the image has no variance plane"), 0
    if before is None or after is None:
        here, there = ("output", "original") if after is None else ("original", "output")
        return Row("variance", "fails", note=f"the {here} has no variance plane, the {there} has one"), 0
    empty = np.zeros((0, 0), np.float32)
    planes = (pair.before.image, pair.after.image) if law.of_noisy else (empty, empty)
    sums = variance_sums(before, after, redrawn.stars, redrawn.others, redrawn.lit, law.variance, *planes, BLOCK)
    named = total(sums, VARIANCE_SUMS)
    changed, n = int(named["changed"]), int(named["touched"])
    added, expected, base = sums[..., 3], sums[..., 4], sums[..., 5]
    sum_added, sum_expected, sum_base = named["added"], named["expected"], named["before"]
    rounding = 1e-6 * sum_base
    if sum_expected == 0:
        wrong = abs(sum_added) > rounding
        note = "variance was added to an image without noise" if wrong else ""
        return Row.of("variance", not wrong, sum_added, rounding, n=n, note=note), changed
    if sum_expected < 100 * rounding:
        return Row("variance", "not applicable", n=n, note="what the sources add is less than its rounding"), changed
    off = sum_added / sum_expected - 1
    judged = expected > _SEEN * base
    bad = judged & ((added < 0.5 * expected) | (added > 2 * expected)) & (expected > 1e-6 * sum_expected)
    note = ""
    if abs(off) > _VARIANCE_TOLERANCE:
        note = f"{sum_added:.4g} was added, {sum_expected:.4g} is flux / gain"
    elif bad.any():
        note = f"{number(int(bad.sum()), 'block')} of {int(judged.sum()):,} got less than half of it, or twice as much"
    if named["lost"]:
        note += f"{'; ' if note else ''}{number(int(named['lost']), 'pixel')} became NaN, or no longer are"
    return Row.of("variance", not note, off, _VARIANCE_TOLERANCE, n=n, note=note), changed


def check_mask(pair: ImagePair, redrawn: Redrawn, options: InjectionOptions) -> tuple[Row, int]:
    """Whether the mask planes of the fakes are set where they are to be; and how many pixels of others changed."""
    before, after, truth = pair.before, pair.after, redrawn.truth
    (x0, y0), (ny, nx) = before.xy0, before.shape
    core = np.zeros(before.shape, np.uint8)
    drawn = np.asarray(truth["stamp_size"]) > 0
    if options.mark_injected:
        columns = np.rint(np.asarray(truth["x"], float)[drawn]).astype(int) - x0
        rows = np.rint(np.asarray(truth["y"], float)[drawn]).astype(int) - y0
        # LSST's package rounds the middle in another way: only the pixel that is in any square is asked for.
        wide = 0 if options.conventions == LSST else 1
        for i, j in zip(columns, rows, strict=True):
            below, above = (max(0, middle - wide) for middle in (j, i)), (middle + wide + 1 for middle in (j, i))
            (j0, i0), (j1, i1) = below, above
            core[j0 : max(0, min(ny, j1)), i0 : max(0, min(nx, i1))] = 1
    names = ("INJECTED", "INJECTED_CORE")
    now, then = after.mask_planes, before.mask_planes
    bits = np.array([planes.get(name, 0) for planes in (now, then) for name in names], dtype=np.int64)
    like_lsst = options.conventions == LSST
    threshold = 0.0 if like_lsst else options.mask_threshold
    sums = mask_sums(
        before.mask,
        after.mask,
        redrawn.stars,
        redrawn.others,
        redrawn.lit,
        _variance_of(before),
        core,
        bits,
        threshold,
        BLOCK,
    )
    found = {name: int(value) for name, value in total(sums, MASK_SUMS).items()}
    changed = found["changed"]
    if not options.mark_injected:
        return Row("mask", "not applicable", note="mark_injected is false"), changed
    if not drawn.any():
        return Row("mask", "not applicable", note="no source was drawn"), changed
    notes = [f"there is no plane {name}" for name in names if name not in now]
    if like_lsst:
        found["surplus"] = found["core_surplus"] = 0  # the package marks whole stamps
    words = {
        "missing": "INJECTED is missing on",
        "surplus": "INJECTED is set without light on",
        "core_missing": "INJECTED_CORE is missing on",
        "core_surplus": "INJECTED_CORE is set off the sources on",
    }
    notes += [f"{text} {number(found[key], 'pixel')}" for key, text in words.items() if found[key]]
    off = sum(found[key] for key in words)
    return Row.of("mask", not notes, off, 0.0, n=int(core.sum()), note="; ".join(notes)), changed


def _variance_of(exposure: Exposure) -> NDArray[np.float32]:
    """The variance that INJECTED refers to: the plane, or one number for an image without it."""
    if exposure.variance is not None:
        return exposure.variance
    sample = exposure.image.ravel()[:: max(1, exposure.image.size // 200_000)]
    sample = sample[np.isfinite(sample)]
    sigma = 1.4826 * float(np.median(np.abs(sample - np.median(sample)))) if sample.size else 0.0
    return np.array([[sigma**2]], np.float32)
