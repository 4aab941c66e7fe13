"""What commands print while they work: lines that are safe to show, bars, and stages."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from goodnet.command import silence
from goodnet.errors import printable

_PLAIN_SECONDS = 10.0
_MOMENT_SECONDS = 0.3
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Page(Console):
    """A console for what strangers have named, which takes nothing in it for a command.

    Its reader may go away: what is printed then is lost, and the work goes on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, line: str = "") -> None:
        """Print a line whole, such as a path: it can be copied wherever the terminal ends it."""
        self.print(printable(line), soft_wrap=True)

    def tell(self, sentence: str) -> None:
        """Print a sentence in lines of whole words, each number on one line with its %."""
        kept = printable(sentence).replace(" %", f"{_NO_BREAK}%")
        for line in textwrap.wrap(kept, self.width, break_long_words=False, break_on_hyphens=False):
            self.say(line.replace(_NO_BREAK, " "))

    def on_broken_pipe(self) -> None:
        """Print nothing from now on; Rich would end the process."""
        self.quiet = True
        silence(sys.stderr if self.stderr else sys.stdout)


class ImagesPerSecond(ProgressColumn):
    """The speed of a stage."""

    def render(self, task: Task) -> Text:
        """Return images a second, empty until something is done."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")


class Progressing:
    """Shows how far long stages are: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._bars: dict[str, Progress] = {}
        self._lines: dict[str, PlainLines] = {}

    def began(self, stage: str) -> None:
        """A stage begins: nothing to say of that."""

    def ended(self) -> None:
        """That stage has ended: nothing to say of that either."""

    def advanced(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` images are through."""
        if not self._page.is_terminal:
            line = self._lines.setdefault(stage, PlainLines(done)).next_line(done, total)
            if line:
                self._page.say(f"{stage}: {line}")
            return
        bar = self._bars.get(stage)
        if bar is None and done == total:
            return
        if bar is None:
            bar = self._bars[stage] = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                ImagesPerSecond(),
                TimeRemainingColumn(),
                console=self._page,
                transient=True,
            )
            bar.add_task(stage, total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done)

    def finished(self, stage: str) -> None:
        """The stage has ended."""
        self._lines.pop(stage, None)
        bar = self._bars.pop(stage, None)
        if bar is not None:
            bar.stop()


class StageLines(Progressing):
    """Says when stages began, in seconds since the command did, and how far they are.

    What takes less than a moment, as all that the cache answers, has no line.
    """

    def __init__(self, page: Page) -> None:
        super().__init__(page)
        self._start = time.monotonic()
        self._waiting: threading.Timer | None = None

    @classmethod
    def begin(cls, plan: str, *, quiet: bool) -> StageLines | None:
        """Say what a command is about to do; return None, saying nothing, if it is quiet."""
        if quiet:
            return None
        page = Page(stderr=True)
        page.tell(plan)
        shown = cls(page)
        shown.say("starting Prefect")
        return shown

    def say(self, stage: str) -> None:
        """Print the line of a stage that begins."""
        self._page.say(self._line(stage))

    def began(self, stage: str) -> None:
        """A stage begins: print its line in a moment."""
        self.ended()  # of a stage that has failed, nobody says so
        self._waiting = threading.Timer(_MOMENT_SECONDS, self._page.say, [self._line(stage)])
        self._waiting.daemon = True
        self._waiting.start()

    def ended(self) -> None:
        """That stage has ended."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _line(self, stage: str) -> str:
        return f"{time.monotonic() - self._start:6.1f} s  {stage}"


class PlainLines:
    """What to say now and then of a stage that had `done` images when it was first heard of."""

    def __init__(self, done: int) -> None:
        self._first = done
        self._began = self._spoke = time.monotonic()

    def next_line(self, done: int, total: int) -> str | None:
        """Return how far the stage is, how fast and how long it will take; None if too soon."""
        now = time.monotonic()
        if now - self._spoke < _PLAIN_SECONDS or done == self._first:
            return None
        self._spoke = now
        speed = (done - self._first) / (now - self._began)
        left = (total - done) / speed
        return f"{done:,} of {total:,} images, {speed:,.0f} images/s, {left:.0f} s left"
