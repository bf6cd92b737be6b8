"""The terminal's driver for a slow line. Imported on POSIX systems only: it needs termios."""

from __future__ import annotations

from textual.drivers.linux_driver import LinuxDriver


class FewEventsDriver(LinuxDriver):
    """Asks for the mouse's clicks, drags and wheel, but not for each cell that it passes.

    Only for an app whose `low_bandwidth` is true when the driver starts.
    """

    CLICKS = ("1000", "1002", "1006")

    def _enable_mouse_support(self) -> None:
        if not getattr(self._app, "low_bandwidth", False):
            super()._enable_mouse_support()
        elif self._mouse:
            self.write("".join(f"\x1b[?{mode}h" for mode in self.CLICKS))

    def _disable_mouse_support(self) -> None:
        super()._disable_mouse_support()
        if self._mouse:
            self.write("\x1b[?1002l")
