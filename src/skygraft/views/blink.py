"""An animated picture that blinks between an image before and after injection."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from skygraft.errors import ConfigError
from skygraft.views.figures import asinh_stretch, sky_level
from skygraft.views.scenes import Scene

__all__ = ["blink_bytes"]

_SHOWN = 500
"""Pixels on a screen that a small cut-out is enlarged to, about."""
_LARGEST = 4096


def blink_bytes(
    scene: Scene,
    format: Literal["gif", "png"] = "gif",
    *,
    zoom: int | None = None,
    milliseconds: int = 800,
) -> bytes:
    """Make an animation of two frames, before and after injection, that repeats for ever.

    Parameters
    ----------
    scene : Scene
        From `find_scene`.
    format : {"gif", "png"}
        An animated GIF, or an animated PNG.
    zoom : int, optional
        Pixels on the screen for each pixel of the image, per axis; by default as many as make a small cut-out about
        500 pixels wide.
    milliseconds : int
        How long each frame is shown.

    Returns
    -------
    bytes
        The content of the file. Rows of the image go upward, and both frames have the same asinh scale.

    Raises
    ------
    ConfigError
        If the format, the zoom or the time is not one that is allowed.
    """
    width, height = scene.cutout[2:]
    if format not in ("gif", "png"):
        raise ConfigError(f"an animation is no {format!r}", key="format", fix="Give 'gif' or 'png'")
    zoom = max(1, round(_SHOWN / max(width, height))) if zoom is None else zoom
    if zoom < 1 or milliseconds < 20 or max(width, height) * zoom > _LARGEST:
        raise ConfigError(
            f"an animation of {width * zoom} x {height * zoom} pixels with {milliseconds} ms a frame is not made; at "
            f"most {_LARGEST} pixels and at least 20 ms are allowed",
            key="zoom",
            fix="Show a smaller part of the image",
        )
    level, sigma = sky_level(scene.before.image)
    frames = []
    for name, exposure in (("before", scene.before), ("after", scene.after)):
        grey = np.round(255 * asinh_stretch(exposure.image[scene.part] - level, sigma)).astype(np.uint8)
        large = np.repeat(np.repeat(grey[::-1], zoom, axis=0), zoom, axis=1)
        frames.append(_labelled(Image.fromarray(large), name))
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format=format, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False
    )
    return buffer.getvalue()


def _labelled(frame: Image.Image, text: str) -> Image.Image:
    """Write a word into the upper left corner, white on black, if there is room."""
    size = min(22, frame.height // 8, frame.width // 8)
    if size >= 8:
        draw = ImageDraw.Draw(frame)
        font = ImageFont.load_default(size)
        left, top, right, bottom = draw.textbbox((size // 2, size // 3), text, font=font)
        pad = size // 4
        draw.rectangle((left - pad, top - pad, right + pad, bottom + pad), fill=0)
        draw.text((size // 2, size // 3), text, font=font, fill=255)
    return frame
