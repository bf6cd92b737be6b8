"""A scrolling container that lays out only what is in view, or nearly.

Textual walks through every widget of a screen for each layout, and a growing answer needs one for
each piece of it. What is out of sight keeps its place and its height, but what is inside it costs
nothing. Knows no chat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual.containers import Vertical, VerticalScroll
from textual.geometry import Size
from textual.layout import DockArrangeResult, WidgetPlacement

if TYPE_CHECKING:
    from textual.widget import Widget as AnyWidget
else:  # Textual takes a widget's style sheet from the first base that is a widget
    AnyWidget = object


class InPart(AnyWidget):
    """Mixed into a child of a Block: places only those of its children that are in view.

    Those that are not are as if scrolled away: they have no region.
    """

    # The rows that are in view, from the first up to the last, counted from its top.
    view: tuple[int, int] | None = None

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Leave out what is not in view; the whole height stays."""
        result = super().arrange(size, optimal)
        if self.view is None:
            return result
        seen = [placement for placement in result.placements if _sees(self.view, placement)]
        return replace(result, placements=seen, _spatial_map=result.spatial_map)


class Block(Vertical):
    """A direct child of a Viewport. `view` is the viewport's to set."""

    view: tuple[int, int] | None = None
    in_view = True

    @property
    def is_scrollable(self) -> bool:
        """Return whether the compositor is to look inside."""
        return self.in_view and super().is_scrollable

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Tell the children which of their rows are in view."""
        result = super().arrange(size, optimal)
        for placement in result.placements:
            if isinstance(placement.widget, InPart) and self.view is not None:
                placement.widget.view = _within(self.view, placement)
        return result


class Viewport(VerticalScroll):
    """Scrolls over blocks, and over any other widgets, which are laid out wherever they are."""

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Note which blocks are in view. The compositor calls this before it goes into them."""
        result = super().arrange(size, optimal)
        view = self._view(size, result)
        for placement in result.placements:
            if isinstance(placement.widget, Block):
                placement.widget.in_view = _sees(view, placement)
                placement.widget.view = _within(view, placement)
        return result

    def _view(self, size: Size, result: DockArrangeResult) -> tuple[int, int]:
        """Return the rows in view, and as many again above and below: a step of scrolling."""
        height = self.container_size.height or size.height
        top = self.scroll_offset.y
        if self._anchored and not self._anchor_released:  # the compositor will scroll to the end
            top = result.total_region.bottom - height
        return top - height, top + 2 * height


def _sees(view: tuple[int, int], placement: WidgetPlacement) -> bool:
    first, last = view
    return placement.region.bottom > first and placement.region.y < last


def _within(view: tuple[int, int], placement: WidgetPlacement) -> tuple[int, int]:
    """Return `view` as rows of the widget that is placed."""
    first, last = view
    return first - placement.region.y, last - placement.region.y
