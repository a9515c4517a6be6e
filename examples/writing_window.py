"""A window that goes on from what you type: Tab takes what stands in grey, a key drops it.

    python examples/writing_window.py [BUNDLE]

The model works in a thread of its own, through a session: of a text that grows it reads only what
is new. The next key cancels what is being written.
"""

from __future__ import annotations

import queue
import sys
import threading
import tkinter
from typing import NamedTuple

from edgeseq.runtime import EdgeseqError, Model, load

WAIT_MS = 150  # after a key, before the model begins
POLL_MS = 15
NEW_TOKENS = 16
LONGEST = 4000  # characters that are read
STEP = 256  # of them that go at once where they are too many: the session keeps the rest till then


class Request(NamedTuple):
    """A text to go on from, until it is cancelled."""

    text: str
    cancelled: threading.Event


class Completer:
    """Goes on from the text that was asked for last; ``pieces`` holds what came, with its request.

    Only the thread uses the session.
    """

    def __init__(self, model: Model) -> None:
        self.pieces: queue.SimpleQueue[tuple[Request, str]] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._last = Request("", threading.Event())
        self._thread = threading.Thread(target=self._work, args=(model,))
        self._thread.start()

    def complete(self, text: str) -> Request:
        """Begin with ``text``, in place of what was begun before."""
        self.cancel()
        self._last = Request(text, threading.Event())
        self._requests.put(self._last)
        return self._last

    def cancel(self) -> None:
        """End what is being written, within a token."""
        self._last.cancelled.set()

    def close(self) -> None:
        """End the thread."""
        self.cancel()
        self._requests.put(None)  # more than once is harmless
        self._thread.join()

    def _work(self, model: Model) -> None:
        with model.session() as session:
            while (request := self._requests.get()) is not None:
                try:
                    for piece in session.stream(
                        end_of(request.text, model),
                        max_new_tokens=NEW_TOKENS,
                        do_sample=False,
                        repetition_penalty=1.2,
                        cancel=request.cancelled,
                    ):
                        self.pieces.put((request, piece))
                except EdgeseqError as error:  # of this text: the next may be served
                    print(error, file=sys.stderr)


def end_of(text: str, model: Model) -> str:
    """As much of the end of ``text`` as the model has positions for, with what it writes."""
    positions = model.bundle.manifest.dimensions.max_positions
    begin, step = -(-max(0, len(text) - LONGEST) // STEP) * STEP, STEP
    while positions and len(model.tokenizer.encode(text[begin:])) > positions - NEW_TOKENS:
        while step > max(1, (len(text) - begin) // 2):  # many tokens a character
            step //= 2
        begin += step
    return text[begin:]


class Window:
    """The text, and in grey behind it what the model would write."""

    def __init__(self, model: Model) -> None:
        self.root = tkinter.Tk()
        self.root.title("edgeseq")
        self.root.configure(background="white")
        self.text = tkinter.Text(
            self.root,
            wrap="word",
            width=56,
            height=5,
            font=("", 14),
            borderwidth=0,
            highlightthickness=0,
            background="white",
        )
        self.text.tag_configure("grey", foreground="#8a8a8a")
        self.text.pack(expand=True, fill="both", padx=12, pady=10)
        self.text.bind("<Key>", self._on_key)
        self.text.bind("<Tab>", self._on_tab)
        self.text.bind("<Button>", lambda event: self._drop())
        self.root.protocol("WM_DELETE_WINDOW", self.close)
        self.completer = Completer(model)
        self._shown: Request | None = None
        self._begin = ""  # the timer that waits for the next key
        self._poll()

    def close(self) -> None:
        """End the model's work, and the window."""
        self.completer.close()
        self.root.destroy()

    def _on_key(self, event: object) -> None:
        self._drop()
        if self._begin:
            self.root.after_cancel(self._begin)
        self._begin = self.root.after(WAIT_MS, self._ask)

    def _on_tab(self, event: object) -> str:
        self.text.tag_remove("grey", "1.0", "end")
        self._drop()
        self.text.mark_set("insert", "end")
        self._begin = self.root.after(WAIT_MS, self._ask)
        return "break"  # no tab is written

    def _ask(self) -> None:
        written = self.text.get("1.0", "end-1c")
        at_the_end = self.text.compare("insert", "==", "end-1c")
        if written.strip() and at_the_end:
            self._shown = self.completer.complete(written)

    def _drop(self) -> None:
        """Cancel what is being written, and take what stands in grey away."""
        self.completer.cancel()
        self._shown = None
        while grey := self.text.tag_nextrange("grey", "1.0"):
            self.text.delete(*grey)

    def _poll(self) -> None:
        while not self.completer.pieces.empty():
            request, piece = self.completer.pieces.get()
            if request is self._shown:
                place = self.text.index("insert")
                self.text.insert("end-1c", piece, "grey")
                self.text.mark_set("insert", place)
        self.root.after(POLL_MS, self._poll)


if __name__ == "__main__":
    window = Window(load(*sys.argv[1:]))
    try:
        window.root.mainloop()
    finally:  # Ctrl-C in the terminal, too
        window.completer.close()
