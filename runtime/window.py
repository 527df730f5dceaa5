"""A window on the screen."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import cv2

from runtime.command import one_line
from runtime.errors import OutputError
from runtime.preprocess import Picture

ESCAPE = 27
QUIT_KEYS = (ord("q"), ESCAPE)
HINT = "pass --headless, and --output annotated.mp4 to see pictures later"


class Window:
    """Shows pictures; the user closes it with q, Escape or its button.

    Args:
        title: The window's title.
        hint: What to do where there is no window, for messages.

    Raises:
        OutputError: No display, or an OpenCV without windows.
    """

    def __init__(self, title: str, *, hint: str = HINT) -> None:
        # asked for here, because Qt does not raise without a display: it aborts the process
        if sys.platform == "linux" and not _has_display():
            raise OutputError(f"no display here (DISPLAY is not set); {hint}")
        self._title = title
        self._hint = hint
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as err:
            raise OutputError(
                f"this OpenCV cannot open windows (a headless build); {hint}"
            ) from err

    def show(self, image_rgb: Picture) -> bool:
        """Show a picture, shape (H, W, 3), uint8, RGB; False when the user has closed it.

        Raises:
            OutputError: The window system failed.
        """
        return self.key_after(image_rgb) not in QUIT_KEYS

    def key_after(self, image_rgb: Picture) -> int | None:
        """Show a picture, shape (H, W, 3), uint8, RGB, and read a key.

        Returns:
            The key that was pressed since the last picture, as its character's number; None for
            no key, Escape where the window's button closed it.

        Raises:
            OutputError: The window system failed.
        """
        try:
            cv2.imshow(self._title, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
            pressed = cv2.waitKey(1)
            if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                return ESCAPE
        except cv2.error as err:
            raise OutputError(f"the window failed: {one_line(err)}; {self._hint}") from err
        return None if pressed < 0 else pressed & 0xFF

    def close(self) -> None:
        """Close the window; one whose window system failed is gone already."""
        with suppress(cv2.error):
            cv2.destroyAllWindows()

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
